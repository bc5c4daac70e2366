"""Who may write what: the operator's token, workers' own signatures, requesters' keys, workers' encryption keys."""
