"""API keys: made here, shown once, kept as hashes.

A key is `lbl_ID_SECRET`. The id finds the row; the secret is 256 random bits, so a plain SHA-256 of it is enough: there
is no dictionary of such secrets to try, and a slow hash would only slow every request.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from limits import parse
from sqlalchemy import select

from labeler.errors import InputError, NotFoundError
from labeler.store.base.store import Store
from labeler.store.tables.label_sets import now
from labeler.store.tables.service import API_KEYS
from labeler.terms import Scope

DEFAULT_RATE = "1200/minute"
_KEY = re.compile(r"lbl_([0-9a-f]{8})_([A-Za-z0-9_-]{43})", re.ASCII)
_COLUMNS = ("id", "name", "scope", "rate", "created_at", "revoked_at")


@dataclass(frozen=True)
class ApiKey:
    """A key in a list, without its secret, which only the key's owner has."""

    id: str
    name: str
    scope: Scope
    rate: str
    created_at: datetime
    revoked_at: datetime | None


def create_key(store: Store, name: str, scope: Scope, rate: str = DEFAULT_RATE) -> tuple[ApiKey, str]:
    """Make a key, and return it with its text, which cannot be shown again. Raises InputError."""
    if not name.strip() or len(name) > 100 or not name.isprintable():
        raise InputError(f"name {name!r}: expected 1 to 100 printable characters")
    try:
        parse(rate)
    except ValueError as error:
        raise InputError(f"rate {rate!r}: expected such as 100/minute or 10/second") from error
    key_id, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
    row: dict[str, Any] = {
        "id": key_id,
        "name": name,
        "scope": scope,
        "rate": rate,
        "created_at": now(),
        "revoked_at": None,
    }
    with store.database.writing() as connection:
        connection.execute(API_KEYS.insert().values(**row, sha256=_sha256(secret)))
    return ApiKey(**row), f"lbl_{key_id}_{secret}"


def list_keys(store: Store) -> list[ApiKey]:
    """List the keys, oldest first, including revoked ones."""
    columns = [API_KEYS.c[name] for name in _COLUMNS]
    with store.database.reading() as connection:
        rows = connection.execute(select(*columns).order_by(API_KEYS.c.created_at, API_KEYS.c.id)).mappings()
        return [ApiKey(**{**row, "scope": Scope(row["scope"])}) for row in rows]


def revoke_key(store: Store, key_id: str) -> ApiKey:
    """Revoke a key, which then opens nothing. Revoking twice changes nothing. Raises NotFoundError."""
    with store.database.writing() as connection:
        connection.execute(
            API_KEYS.update().where(API_KEYS.c.id == key_id, API_KEYS.c.revoked_at.is_(None)).values(revoked_at=now())
        )
    found = next((key for key in list_keys(store) if key.id == key_id), None)
    if found is None:
        raise NotFoundError(f"key {key_id!r}: there is none; `labeler keys list` shows those there are")
    return found


def any_key(store: Store) -> bool:
    """Return True if a key was ever made.

    A revoked one counts: revoking the last key must not open the service.
    """
    with store.database.reading() as connection:
        return connection.execute(select(API_KEYS.c.id).limit(1)).first() is not None


def verify_key(store: Store, text: str) -> ApiKey | None:
    """Return the key with this text; None where there is no such key or it is revoked."""
    match = _KEY.fullmatch(text)
    if match is None:
        return None
    key_id, secret = match.groups()
    with store.database.reading() as connection:
        row = connection.execute(select(API_KEYS).where(API_KEYS.c.id == key_id)).mappings().one_or_none()
    # Compared even without such a row, so that an answer takes the same time.
    same = hmac.compare_digest(_sha256(secret), row["sha256"] if row is not None else _sha256(""))
    if row is None or not same or row["revoked_at"] is not None:
        return None
    return ApiKey(**{name: row[name] for name in _COLUMNS} | {"scope": Scope(row["scope"])})


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
