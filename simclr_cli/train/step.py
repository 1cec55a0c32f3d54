"""One update of the weights, exact at any batch, by any number of passes and processes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from simclr_cli.api import ResolvedSettings
from simclr_cli.core.distributed import Ranks
from simclr_cli.core.events import Note, Report
from simclr_cli.core.seeds import Purpose, seed_device, torch_generator
from simclr_cli.engine.augment import TwoViews, ViewParameters, view_recipe
from simclr_cli.engine.compile import Forward, compiled
from simclr_cli.engine.loss import contrastive_loss
from simclr_cli.engine.simclr import SimCLR
from simclr_cli.images.loader import Batch


class Step:
    """Two views of N images, their h, the head and the loss over all of them, one step of the optimizer.

    Where a batch is too large for the memory it is cut at h (gradient caching, arXiv 2101.06983): every micro-batch
    gives its h, the last one with its graph and the others without; head and loss see all h of the batch, and give its
    gradient; the last micro-batch goes backward, and each of the others is computed again, with the gradient of its
    own h. Of several processes each does so for its part of the batch, and all h are gathered in between. Head and
    loss are those of one pass; of f's layers only batch norm knows that it saw no more than a micro-batch (of all
    processes, on GPUs).
    """

    def __init__(
        self,
        model: SimCLR,
        optimizer: torch.optim.Optimizer,
        chosen: ResolvedSettings,
        report: Report,
        *,
        groups: Tensor | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        """groups: one for every image of the census, on the CPU (see contrastive_loss)."""
        self.device = model.encoder.mean.device
        self.model, self.optimizer, self.chosen = model, optimizer, chosen
        self.groups, self.ranks = groups, ranks or Ranks()
        self.views = TwoViews(chosen.image_size, view_recipe(chosen))
        self.losses: list[Tensor] = []  # of the steps done, on the device, until someone reads them and takes them out
        self.lock = threading.Lock()  # of what the last whole step left: model, optimizer and losses
        self._buffers: dict[Tensor, Tensor] = {}  # those of the model that have changed since -> as that step left them
        self._left: torch.cuda.Event | None = None  # when a GPU has come to there
        self.encode: Forward = model.encoder
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # every batch has the same shape
        if chosen.compile == "on":
            views, size = 2 * (chosen.micro_batch or chosen.batch_size), chosen.image_size
            example = torch.rand(views, 3, size, size, device=self.device)
            self.encode, reason = compiled(model.encoder, example, self._autocast())
            if reason:
                report(Note(f"Trained without torch.compile, which is not to be had here ({reason}).", warning=True))

    def __call__(self, batch: Batch) -> Tensor:
        """Everything random in a step follows from (seed, step), and dropout and the like from the micro-batches too.

        If it fails before the optimizer's step, for want of memory, the model is as it was, and the step can be done
        again in smaller micro-batches.

        Returns:
            The loss over the whole batch before the update, a scalar without graph, on the device; it stands at the
            end of `losses` too.
        """
        drawn = self.views.draw(batch.sizes, torch_generator(self.chosen.seed, Purpose.VIEWS, batch.step))
        *early, last = batch.parts
        kept = {buffer: buffer.clone() for buffer in self.model.buffers()}  # the running statistics of norms
        with self.lock:  # who saves is still reading what the forward passes will change
            self._leave(kept)
        self.optimizer.zero_grad()
        try:
            h = [self._represent(batch, part, drawn, graph=False) for part in early]
            if early:
                _restore(self.model.encoder, kept)  # they are to see each image once
            h.append(self._represent(batch, last, drawn, graph=True))
            loss, slopes = self._contrast(h, batch)
            h.pop().backward(slopes[:, last].flatten(0, 1))  # type: ignore[no-untyped-call]
            for part in early:
                again = self._represent(batch, part, drawn, graph=True)
                again.backward(slopes[:, part].flatten(0, 1))  # type: ignore[no-untyped-call]
        except RuntimeError:
            _restore(self.model, kept)
            self.optimizer.zero_grad()
            raise
        self._add_gradients()
        with self.lock:
            if self.device.type != "cpu" or bool(loss.isfinite()):  # a GPU would have to be waited for
                self.optimizer.step()
            self.losses.append(loss)
            self._leave({})
        return loss

    @contextlib.contextmanager
    def whole(self) -> Iterator[dict[str, Tensor]]:
        """Within, the model's state, the optimizer's and `losses` are what the last whole step left, for any thread.

        A step that is under way goes on, up to its update. A GPU is not waited for, but for that last step: what is
        copied from it here does not queue behind the step under way.
        """
        with self.lock, contextlib.ExitStack() as aside:
            if self._left is not None:
                stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
                stream.wait_event(self._left)
                aside.enter_context(torch.cuda.stream(stream))
            state = self.model.state_dict(keep_vars=True)
            yield {name: self._buffers.get(tensor, tensor).detach() for name, tensor in state.items()}

    def _leave(self, buffers: dict[Tensor, Tensor]) -> None:
        self._buffers = buffers
        if self.device.type == "cuda":
            self._left = torch.cuda.current_stream(self.device).record_event()

    def _represent(
        self, batch: Batch, part: slice, drawn: tuple[ViewParameters, ViewParameters], *, graph: bool
    ) -> Tensor:
        """(2n, width) h of both views of a part; the same each time, dropout included."""
        self._seed(batch.step, part.start)
        x = self.views.make(next(batch.pixels), batch.sizes[part], (drawn[0][part], drawn[1][part]))  # (2n, 3, S, S)
        with torch.set_grad_enabled(graph), self._autocast():
            return self.encode(x)

    def _contrast(self, h: list[Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss over the batch, and its gradient (2, N, width) by each h; the head's own gradient on the way."""
        own = torch.cat([part.detach().reshape(2, -1, part.shape[1]).transpose(0, 1) for part in h])  # (n, 2, width)
        count = len(batch.rows)
        every = self.ranks.gather(own, count).transpose(0, 1).flatten(0, 1).requires_grad_()  # (2N, width)
        self._seed(batch.step, count)
        with self._autocast():
            z = self.model.head(every)  # (2N, D)
        groups = None if self.groups is None else self.groups[torch.from_numpy(batch.rows)]
        loss = contrastive_loss(z, self.chosen.temperature, self.chosen.loss, groups, self.ranks)
        loss.backward()  # type: ignore[no-untyped-call]
        assert every.grad is not None
        return loss.detach(), every.grad.view(2, count, -1)

    def _add_gradients(self) -> None:
        """Those of f are of each process's images, and are added up; those of g each has whole, from the first."""
        if self.ranks.alone:
            return
        if not self.ranks.first:
            for parameter in self.model.head.parameters():
                if parameter.grad is not None:
                    parameter.grad.zero_()
        self.ranks.add([p.grad for p in self.model.parameters() if p.grad is not None])

    def _seed(self, *position: int) -> None:
        seed_device(self.device, self.chosen.seed, Purpose.STEP, *position)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.chosen.precision == "bfloat16")


def _restore(module: torch.nn.Module, before: Mapping[Tensor, Tensor]) -> None:
    for buffer in module.buffers():
        buffer.copy_(before[buffer])
