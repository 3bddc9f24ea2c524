"""Differential privacy: what noise costs, noise that is exact and from the operating system, a budget over a year.

    accountant   RDP curves: mechanisms, composition, (epsilon, delta)
    stream       random words: AES-256-CTR under a key of the operating system
    noise        discrete Gaussian and Laplace on the integers, shares of it for the ring
    training     Opacus with this noise and these samples instead of torch's
    budget       what a year's curves leave of a limit

Nothing here reads data or writes a file; the site's ledger keeps the curves.
"""
