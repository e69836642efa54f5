"""What the routes share: the controller and the settings, built once by `create_app` and handed down here."""

from __future__ import annotations

import asyncio
from typing import Annotated, cast

from fastapi import Depends
from starlette.requests import HTTPConnection

from gen_service.controller.controller import Controller
from gen_service.controller.measurements import Measurements
from gen_service.service_settings import ServiceSettings
from gen_service.web.feeds import Feeds
from gen_service.web.limits import RequestLimits
from gen_service.web.published import PublishedParts


def controller_of(connection: HTTPConnection) -> Controller:
    """The controller behind the app that answers `connection`."""
    return cast(Controller, connection.app.state.controller)


def settings_of(connection: HTTPConnection) -> ServiceSettings:
    """The settings of the app that answers `connection`."""
    return cast(ServiceSettings, connection.app.state.settings)


def limits_of(connection: HTTPConnection) -> RequestLimits:
    """What counts the requests to the app that answers `connection`."""
    return cast(RequestLimits, connection.app.state.limits)


def turns_of(connection: HTTPConnection) -> asyncio.Semaphore:
    """Places for requests that are worked on at a time in the app that answers `connection`."""
    return cast(asyncio.Semaphore, connection.app.state.turns)


def feeds_of(connection: HTTPConnection) -> Feeds:
    """What the watchers of jobs share in the app that answers `connection`."""
    return cast(Feeds, connection.app.state.feeds)


def published_of(connection: HTTPConnection) -> PublishedParts:
    """What is known of published files in the app that answers `connection`."""
    return cast(PublishedParts, connection.app.state.published)


def measurements_of(connection: HTTPConnection) -> Measurements:
    """The numbers of the app that answers `connection`."""
    return cast(Measurements, connection.app.state.measurements)


ControllerDep = Annotated[Controller, Depends(controller_of)]
SettingsDep = Annotated[ServiceSettings, Depends(settings_of)]
FeedsDep = Annotated[Feeds, Depends(feeds_of)]
MeasurementsDep = Annotated[Measurements, Depends(measurements_of)]
PublishedDep = Annotated[PublishedParts, Depends(published_of)]
