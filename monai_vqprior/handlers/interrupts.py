# Copyright (c) monai_vqprior contributors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

from __future__ import annotations

import signal
import threading
from types import FrameType

__all__ = ["WholeSteps"]


class WholeSteps:
    """
    Let Ctrl-C wait for the end of a training step.

    Within a step the codebook is updated and the weights, or some of them, are not: no state to save and resume. A
    second Ctrl-C does not wait. Signals are left alone outside the main thread and where the program has a handler of
    its own.
    """

    def __init__(self) -> None:
        #: whether a step has begun and not ended.
        self.within = False
        self._waiting = False
        self._deferring = False

    def begin(self) -> None:
        """A step begins."""
        self.within = True
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        ):
            signal.signal(signal.SIGINT, self._defer)
            self._deferring = True

    def end(self) -> None:
        """
        A step has ended, its results are in place.

        Raises:
            KeyboardInterrupt: when Ctrl-C came in its course.
        """
        self.within = False
        waiting = self._waiting
        self.release()
        if waiting:
            raise KeyboardInterrupt

    def release(self) -> None:
        """Let Ctrl-C interrupt at once again; a step that had begun stays one that has not ended."""
        self._waiting = False
        if self._deferring:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._deferring = False

    def _defer(self, number: int, frame: FrameType | None) -> None:
        if self._waiting:
            raise KeyboardInterrupt
        self._waiting = True
