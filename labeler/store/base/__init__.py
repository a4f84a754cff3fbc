"""The database itself, and what all of the store rests on: connections, rows, columns, cursors, counters, the ledger."""
