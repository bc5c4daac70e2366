"""Results and notifications that are posted where the requester of an order asked for them.

`addresses` says where the service posts at all, `poster` posts once, `retries` says when to try again, `deliverer` puts
them together over a durable `ports.DeliveryStore`: a post that was promised is made at least once, or kept as dead.
"""
