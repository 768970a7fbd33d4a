"""
The books: what gateways say that they have booked, compared with the ledger, and the ledger for people who keep books.

Nothing here moves the money of an order. What has to be repaired is repaired by the services of payments.
"""
