"""Passwords in URLs: no file, message or command that is shown has one."""

from __future__ import annotations

import re

__all__ = ["HIDDEN", "without_password"]

# What stands where a password stood.
HIDDEN = "***"
# Up to the last @ before a blank: a password with an @ of its own is hidden whole.
_PASSWORD = re.compile(r"(://[^\s:/@]*):\S*@")
_PASSWORD_OPTION = re.compile(r"([?&]\w*(?:password|passwd)=)[^&\s]*", re.IGNORECASE)


def without_password(text: str) -> str:
    """A URL, or a text with URLs in it, with `***` for each password.

    >>> without_password("postgresql://me:secret@host/db?sslmode=require")
    'postgresql://me:***@host/db?sslmode=require'
    >>> without_password("sqlite:///multirun/study.db")
    'sqlite:///multirun/study.db'
    """
    text = _PASSWORD.sub(rf"\1:{HIDDEN}@", text)
    return _PASSWORD_OPTION.sub(rf"\1{HIDDEN}", text)
