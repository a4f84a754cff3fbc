"""Access to the pages: an API key in a cookie, given once in a form. Without any key, only this machine has access."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response
from fastapi.security import HTTPAuthorizationCredentials

from api.access import COOKIE, Caller, access_of, bearer, of_cookie
from api.pages.render import render
from api.problems import RequestProblem
from labeler.errors import InputError
from labeler.terms import Scope

router = APIRouter()
_MOST_FIELDS = 100
# Those sent without a key, and how many bytes of them are read.
OPEN_FORMS = {"/sign-in": 8 << 10, "/sign-out": 1 << 10}
_COOKIE_SECONDS = 30 * 86_400


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form; of fields with one name, the last."""
    try:
        text = (await request.body()).decode()
        fields = dict(parse_qsl(text, keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="strict"))
    except ValueError as error:
        raise InputError("form: expected fields as a browser sends them") from error
    if any("\x00" in value for value in fields.values()):
        raise InputError("form: a null character is not text")
    return fields


def check_origin(request: Request) -> None:
    """Accept a form that changes something only from pages of this service. Raises RequestProblem."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    same = site in ("same-origin", "none") if site is not None else False
    if site is None and origin is not None:
        same = urlsplit(origin).netloc == request.headers.get("host", "")
    if not same:
        raise RequestProblem(403, "a form is taken from a page of this service only: open the page, and send it there")


Given = Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]


def _viewer(request: Request, given: Given) -> Caller:
    return access_of(request).caller(request, given or of_cookie(request), Scope.READ)


def _editor(request: Request, given: Given) -> Caller:
    check_origin(request)
    return access_of(request).caller(request, given or of_cookie(request), Scope.SUBMIT)


Viewer = Annotated[Caller, Depends(_viewer)]  # of a page that shows
Editor = Annotated[Caller, Depends(_editor)]  # of a form that changes something
Form = Annotated[dict[str, str], Depends(_form)]


@router.get("/sign-in")
def sign_in_page(request: Request, next: str = "/") -> Response:
    return render(request, "sign_in.html.j2", next=inside(next), problem=None)


@router.post("/sign-in")
def sign_in(request: Request, form: Form) -> Response:
    """Keep the key in a cookie that no script can read and no other site can send."""
    check_origin(request)
    key, target = form.get("key", "").strip(), inside(form.get("next", "/"))
    try:
        access_of(request).caller(request, HTTPAuthorizationCredentials(scheme="Bearer", credentials=key), Scope.READ)
    except RequestProblem as problem:
        return render(request, "sign_in.html.j2", status=problem.status, next=target, problem=problem.detail)
    response = RedirectResponse(target, 303)
    secure = "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))
    response.set_cookie(COOKIE, key, max_age=_COOKIE_SECONDS, httponly=True, samesite="strict", secure=secure)
    return response


@router.post("/sign-out")
def sign_out(request: Request) -> Response:
    check_origin(request)
    response = RedirectResponse("/sign-in", 303)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response


def inside(target: str) -> str:
    """A place to go to next: a path of this service, and nowhere else."""
    is_ours = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if is_ours else "/"
