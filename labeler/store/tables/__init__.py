"""The tables, by what they hold. A change here needs a migration in migrations/versions; a test compares the two."""
