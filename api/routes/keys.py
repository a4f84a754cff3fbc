"""API keys: listed and revoked. They are made on the command line, where they are shown once."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from api.access import Admin
from api.parameters import PROBLEMS, StoreOf
from labeler.rest_schema import Key, Keys
from labeler.store.people.keys import list_keys, revoke_key

router = APIRouter(tags=["keys"], responses=PROBLEMS)


@router.get("/keys")
def list_all(store: StoreOf, _: Admin) -> Keys:
    """List all keys, the revoked ones too, without their secrets."""
    return Keys.model_validate({"items": list_keys(store)})


@router.delete("/keys/{key}")
def revoke(store: StoreOf, _: Admin, key: Annotated[str, Path(pattern="^[0-9a-f]{8}$")]) -> Key:
    """Revoke a key. It stops working at once."""
    return Key.model_validate(revoke_key(store, key))
