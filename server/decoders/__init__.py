"""Processes that decode what clients send: small, confined, and ended when they take too much.

The web process runs no codec. It hands a file and the name of a function to one of these processes
(``pool``), which were forked from one that has imported the codecs (``nursery``, ``child``).
"""
