"""The playground at `/`: one page and its files, kept in memory, with a policy that lets nothing else run or load."""

import hashlib
import html
from pathlib import Path

from fastapi import APIRouter, Request, Response

from elbod.api.security import PAGE_FILES
from elbod.errors import UnknownModel, shown

router = APIRouter(include_in_schema=False)

_FOLDER = Path(__file__).with_name("playground")
_PAGE = "index.html"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
# The page makes its own pictures (blob:) and shows nobody else's; its forms are read by its scripts and never sent.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_CONFINED = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

_FILES = {
    path.relative_to(_FOLDER).as_posix(): path.read_bytes()
    for path in sorted(_FOLDER.rglob("*"))
    if path.suffix in _TYPES
}
# A part of every file's address, so that a page is never made of the files of two versions of elbod, and caches may
# keep them for good.
_DIGEST = hashlib.sha256(b"\0".join(part for name in _FILES for part in (name.encode(), _FILES[name]))).hexdigest()[:16]


@router.get("/")
async def page(request: Request) -> Response:
    """The playground."""
    body = _render(str(request.scope.get("root_path", "")))
    headers = {"ETag": f'"{hashlib.sha256(body).hexdigest()[:32]}"', "Cache-Control": "no-cache"} | _CONFINED
    if request.headers.get("if-none-match", "").removeprefix("W/") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(body, media_type=_TYPES[".html"], headers=headers)


@router.get(f"{PAGE_FILES}/{{digest}}/{{name:path}}")
async def file(digest: str, name: str) -> Response:
    """A script, style or picture of the page. Raises UnknownModel for those of another elbod."""
    if digest != _DIGEST or name not in _FILES or name == _PAGE:
        raise UnknownModel(f"no file {shown(name)!r} of this version of the page: load the page again")
    headers = {"Cache-Control": "public, max-age=31536000, immutable"} | _CONFINED
    return Response(_FILES[name], media_type=_TYPES[Path(name).suffix], headers=headers)


def _render(root_path: str) -> bytes:
    """The page with its files' addresses behind the server's prefix, its scripts named so that they load at once."""
    files = html.escape(f"{root_path}{PAGE_FILES}/{_DIGEST}")
    scripts = "\n".join(f'<link rel="modulepreload" href="{files}/{name}">' for name in _FILES if name.endswith(".js"))
    styles = "\n".join(f'<link rel="stylesheet" href="{files}/{name}">' for name in _FILES if name.endswith(".css"))
    text = _FILES[_PAGE].decode()
    for place, value in (("files", files), ("scripts", scripts), ("styles", styles), ("root", html.escape(root_path))):
        text = text.replace(f"<!--{place}-->", value)
    return text.encode()
