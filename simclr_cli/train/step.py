"""One update of the weights, exact at any batch, by any number of passes and processes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from simclr_cli.api import ResolvedSettings
from simclr_cli.core.distributed import ProcessGroup
from simclr_cli.core.errors import MachineError, is_out_of_memory
from simclr_cli.core.events import Note, Report
from simclr_cli.core.seeds import Purpose, create_torch_generator, seed_device
from simclr_cli.engine.augment import TwoViews, ViewParameters, create_view_recipe
from simclr_cli.engine.compile import Forward, compile_model
from simclr_cli.engine.loss import contrastive_loss
from simclr_cli.engine.optim import Lars, allocate_state
from simclr_cli.engine.simclr import SimCLR
from simclr_cli.images.loader import Batch
from simclr_cli.train.distillation import Distillation
from simclr_cli.train.losses import EpochLosses


class Step:
    """One training step: two views of N images, their h, head and loss over all of them, an update by the optimizer.

    A batch that does not fit into memory is cut at h (gradient caching, arXiv 2101.06983). Every micro-batch is
    encoded: the last one with its graph, the others without. Head and loss see all h of the batch, and give the
    gradient with respect to h. The last micro-batch backpropagates its part at once; each of the others is encoded
    again for it. Of several processes each does so for its part of the batch; all h are gathered in between. Head and
    loss are those of one pass. Only the batch norms of f see no more than a micro-batch (of all processes, on GPUs).
    """

    def __init__(
        self,
        model: SimCLR,
        optimizer: torch.optim.Optimizer,
        settings: ResolvedSettings,
        report: Report,
        *,
        losses: Sequence[float] = (),
        micro_batches: Sequence[slice] = (),
        groups: Tensor | None = None,
        distillation: Distillation | None = None,
        process_group: ProcessGroup | None = None,
    ) -> None:
        """Compile the encoder, if the settings say so.

        Args:
            losses: of the steps that the epoch has done before.
            micro_batches: of each step of this process, to compile the encoder for; empty: the batch is one.
            groups: (N,) one for every image of the census, on the CPU (see contrastive_loss).
            distillation: replaces head and contrastive loss.
        """
        self.device = model.encoder.mean.device
        self.model, self.optimizer, self.settings = model, optimizer, settings
        self.groups, self.process_group = groups, process_group or ProcessGroup()
        self.distillation = distillation
        self.views = TwoViews(settings.train_size, create_view_recipe(settings))
        self.lock = threading.Lock()  # guards model, optimizer and losses as the last whole step left them
        self.losses = EpochLosses(losses)
        self._buffers: dict[Tensor, Tensor] = {}  # buffer changed since the last whole step -> its value then
        self._end_of_step: torch.cuda.Event | None = None  # on a GPU, the end of the last whole step
        self.encode: Forward = model.encoder
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # every batch has the same shape
        if settings.compile == "on":
            # All of them, also those of one size: norms that all processes share need equally many passes in each.
            counts = [part.stop - part.start for part in micro_batches] or [settings.batch_size]
            shape = (3, settings.train_size, settings.train_size)
            examples = (torch.rand(2 * count, *shape, device=self.device) for count in counts)
            self.encode, reason = compile_model(model.encoder, examples, self._autocast())
            if reason:
                report(Note(f"Training without torch.compile, which is unavailable here ({reason}).", warning=True))

    def __call__(self, batch: Batch) -> Tensor:
        """Do one step; everything random in it follows from (seed, step), dropout from the micro-batch as well.

        If it runs out of memory before a weight changes, model and optimizer are as they were, and the step can be
        done again in smaller micro-batches.

        Returns:
            The loss over the whole batch before the update, a scalar without graph, on the device; also appended to
            `losses`.

        Raises:
            MachineError: out of memory while weights change, which only an update that is not fused can be.
        """
        views = self.views.draw(batch.sizes, create_torch_generator(self.settings.seed, Purpose.VIEWS, batch.step))
        *early, last = batch.micro_batches
        buffers = {buffer: buffer.clone() for buffer in self.model.buffers()}  # the running statistics of norms
        with self.lock:  # a thread that saves still reads what the forward passes will change
            self._set_last_step(buffers)
        self.optimizer.zero_grad()
        try:
            h = [self._encode(batch, part, views, graph=False) for part in early]
            if early:
                _restore(self.model.encoder, buffers)  # so that they see each image once
            h.append(self._encode(batch, last, views, graph=True))
            loss, gradients = self._contrast(h, batch)
            if not h[-1].requires_grad:  # f is not trained
                early = []
            else:
                h.pop().backward(gradients[:, last].flatten(0, 1))  # type: ignore[no-untyped-call]
            for part in early:
                h_again = self._encode(batch, part, views, graph=True)
                h_again.backward(gradients[:, part].flatten(0, 1))  # type: ignore[no-untyped-call]
            self._sum_gradients()
            allocate_state(self.optimizer)
            with self.lock:
                if self.device.type != "cpu" or bool(loss.isfinite()):  # on a GPU this would wait for it
                    self._update_weights()
                self.losses.append(loss)
                self._set_last_step({})
        except RuntimeError:
            _restore(self.model, buffers)
            self.optimizer.zero_grad()
            raise
        return loss

    def _update_weights(self) -> None:
        try:
            self.optimizer.step()
        except RuntimeError as error:
            if isinstance(self.optimizer, Lars) or not is_out_of_memory(error):  # LARS has changed nothing yet
                raise
            raise MachineError(
                "The memory is too small to update the weights, and some have changed already.",
                "Close other programs, and run again with --resume.",
            ) from None

    @contextlib.contextmanager
    def hold_last_step(self) -> Iterator[dict[str, Tensor]]:
        """Within, model state, optimizer and `losses` are what the last whole step left, for any thread.

        A running step continues up to its update. Only the last whole step of a GPU is waited for: copying from it does
        not queue behind the running step.

        Yields:
            The state dict of the model.
        """
        with self.lock, contextlib.ExitStack() as stack:
            if self._end_of_step is not None:
                stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
                stream.wait_event(self._end_of_step)
                stack.enter_context(torch.cuda.stream(stream))
            state = self.model.state_dict(keep_vars=True)
            yield {name: self._buffers.get(tensor, tensor).detach() for name, tensor in state.items()}

    def _set_last_step(self, buffers: dict[Tensor, Tensor]) -> None:
        self._buffers = buffers
        if self.device.type == "cuda":
            self._end_of_step = torch.cuda.current_stream(self.device).record_event()

    def _encode(
        self, batch: Batch, part: slice, views: tuple[ViewParameters, ViewParameters], *, graph: bool
    ) -> Tensor:
        """Return (2n, width) h of both views of a part; the same each time, dropout included.

        A compiled encoder makes a graph in any case, which is freed at once: without, it would be compiled once more.
        """
        self._seed(batch.step, part.start)
        x = self.views.make(next(batch.pixels), batch.sizes[part], (views[0][part], views[1][part]))  # (2n, 3, S, S)
        with torch.set_grad_enabled(graph or self.encode is not self.model.encoder), self._autocast():
            h = self.encode(x)
        return h if graph else h.detach()

    def _contrast(self, h: list[Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the loss over the batch and its gradient (2, N, width) with respect to h; also compute the head's.

        Both are whole in each process. Distillation needs no head.
        """
        local_h = torch.cat(
            [part.detach().reshape(2, -1, part.shape[1]).transpose(0, 1) for part in h]
        )  # (n, 2, width)
        count = len(batch.rows)
        all_h = self.process_group.all_gather(local_h, count).transpose(0, 1).flatten(0, 1)  # (2N, width)
        all_h.requires_grad_()
        if self.distillation is not None:
            loss = self.distillation.compute_loss(all_h, batch.rows)
        else:
            assert self.settings.loss != "distill"
            self._seed(batch.step, count)
            with self._autocast():
                z = self.model.head(all_h)  # (2N, D)
            groups = None if self.groups is None else self.groups[torch.from_numpy(batch.rows)]
            loss = contrastive_loss(z, self.settings.temperature, self.settings.loss, groups, self.process_group)
        loss.backward()  # type: ignore[no-untyped-call]
        assert all_h.grad is not None
        return loss.detach(), all_h.grad.view(2, count, -1)

    def _sum_gradients(self) -> None:
        """Sum the gradients over processes: those of f are partial; those of g are whole in each, and count once."""
        if self.process_group.is_single:
            return
        if not self.process_group.is_main:
            for parameter in self.model.head.parameters():
                if parameter.grad is not None:
                    parameter.grad.zero_()
        self.process_group.all_reduce([p.grad for p in self.model.parameters() if p.grad is not None])

    def _seed(self, *position: int) -> None:
        seed_device(self.device, self.settings.seed, Purpose.STEP, *position)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bfloat16")


def _restore(module: torch.nn.Module, values: Mapping[Tensor, Tensor]) -> None:
    for buffer in module.buffers():
        buffer.copy_(values[buffer])
