"""Questions that somebody may never answer."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


def within(seconds: float, function: Callable[..., Any], /, *args: Any, **options: Any) -> Any:
    """What a function returns, which may wait for somebody who never answers.

    Raises:
        TimeoutError: it did not return in time.
    """
    answer: Future[Any] = Future()

    def ask() -> None:
        try:
            answer.set_result(function(*args, **options))
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    return answer.result(timeout=seconds)
