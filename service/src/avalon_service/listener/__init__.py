"""The JSON-RPC listener: a raw ASGI application. It knows HTTP and envelopes; what methods mean is elsewhere."""
