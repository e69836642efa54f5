"""Which database: the setting `data.database` as the driver wants it."""

from __future__ import annotations

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from gen_service.errors import SpecError
from gen_service.service_settings import DataSettings

SETTING = "data.database"
_DRIVERS = {
    "sqlite": "sqlite",
    "sqlite+pysqlite": "sqlite",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}
_RIGHT = "sqlite:///path/of/a/file or postgresql://user:password@host/name"


def database_url(data: DataSettings) -> str:
    """The URL of the database: the setting, or a SQLite file in the data folder."""
    if data.database is not None:
        return data.database.get_secret_value()
    path = str(data.folder.absolute() / "gen_service.db")
    return URL.create("sqlite", database=path).render_as_string(hide_password=False)


def driver_url(text: str) -> URL:
    """The URL with the driver that this package comes with.

    Raises:
        SpecError: no URL, another database, or SQLite without a file, which would be forgotten.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:
        raise SpecError(SETTING, "(not shown)", _RIGHT) from error
    driver = _DRIVERS.get(url.drivername)
    is_file = bool(url.database) and url.database != ":memory:" and not str(url.database).startswith("file:")
    if driver is None or not (is_file or driver.startswith("postgresql")):
        raise SpecError(SETTING, shown(url), _RIGHT)
    return url.set(drivername=driver)


def shown(url: URL) -> str:
    """The URL for people: without the password, and without parameters, which may hold one."""
    return url.set(query={}).render_as_string(hide_password=True)
