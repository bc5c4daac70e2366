"""Where orders and workers are kept.

`memory` for tests, `sqlite` for one machine. Both schedule with the same `book` and differ in the journal under it.
`conformance` is the suite that every store passes, `faulty` a wrapper that fails on purpose.
"""
