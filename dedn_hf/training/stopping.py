"""Ctrl-C and SIGTERM while a model is trained."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import NoReturn

import torch
from accelerate import Accelerator

SIGNALS = (signal.SIGINT, signal.SIGTERM)
AGREE_EVERY = 8  # steps


class StopSignals:
    """Within `with`, the first Ctrl-C or SIGTERM is a wish to stop soon; the second one stops at once.

    What is ignored stays ignored, as Ctrl-C is by a command that a script started in the background.

    Args:
        accelerator: of the processes that must stop at the same step, whichever of them has got the signal.
        enabled: False leaves signals as they are.
    """

    def __init__(self, accelerator: Accelerator, enabled: bool = True) -> None:
        self.accelerator, self.asked = accelerator, 0
        self.received: int | None = None
        self.enabled = enabled and threading.current_thread() is threading.main_thread()  # others cannot handle any

    def __enter__(self) -> StopSignals:
        heeded = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN] if self.enabled else []
        self.before = {number: signal.signal(number, self._receive) for number in heeded}
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if kind is None and self.wanted(at_once=True):
            self.leave()

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None:
            self._leave(number)
        self.received = number
        if self.accelerator.is_main_process:  # not print, which may just have been interrupted itself
            os.write(2, b"\nStopping after this step, with a checkpoint. Once more stops at once, without.\n")

    def wanted(self, at_once: bool = False) -> bool:
        """Whether any process has got a signal: the same answer for all of them, which must all ask.

        Several processes look only every few times they are asked, because it takes them time, or `at_once`.
        """
        if self.accelerator.num_processes > 1:
            self.asked += 1
            if self.asked % AGREE_EVERY and not at_once:
                return False
            flags = torch.tensor([float(self.received == number) for number in SIGNALS])
            flags = self.accelerator.reduce(flags.to(self.accelerator.device), "sum").tolist()
            self.received = next((number for number, flag in zip(SIGNALS, flags, strict=True) if flag), None)
        return self.received is not None

    def leave(self) -> NoReturn:
        """End as the signal would have: KeyboardInterrupt, or SystemExit with 143."""
        self._leave(self.received or signal.SIGINT)

    def _leave(self, number: int) -> NoReturn:
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
