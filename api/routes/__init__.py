"""The routes, one module for each subject. A route only translates: it reads the request, makes one call, and answers."""

from fastapi import APIRouter

from api.routes import activations, compare, features, jobs, keys, labels, reviews, saes, search, sets

v1 = APIRouter(prefix="/v1")
for subject in (saes, features, labels, search, sets, compare, reviews, activations, jobs, keys):
    v1.include_router(subject.router)
