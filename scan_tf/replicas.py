"""Replicas: one training step on several devices, with the numbers that one device would give.

Every replica computes the backbone on its rows of the batch, with the statistics of BatchNorm made
of all rows. The features of all replicas are then gathered, with their gradient, and what follows
(heads, losses, queues, banks, averages, the update) is computed by every replica on the whole batch
in the same way. So no method knows of replicas, and every copy of a variable keeps the same value.

The gradients of the replicas are averaged. For a loss that all R replicas compute alike that of a
head is right as it is. A backbone's is the sum over the rows of all replicas, which the average
makes of R times each part: so much flows back through the gather. All of `tf.distribute` that the
program uses is in here.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from scan_tf.errors import ConfigError
from scan_tf.lazy import tf


@dataclasses.dataclass(frozen=True)
class Part:
    """What a replica has of the batch: its rows are `number * rows` to `(number + 1) * rows - 1`.

    Attributes:
        number: of the replica, 0..count - 1.
        count: R, of the replicas.
        rows: b, images of the batch for each replica.
    """

    number: int
    count: int
    rows: int


# Of the thread: each replica is traced in one of its own.
_part: contextvars.ContextVar[Part | None] = contextvars.ContextVar("part", default=None)
_in_backbone = contextvars.ContextVar("in_backbone", default=False)


def part() -> Part | None:
    """What this replica has of the batch; None: there is one device, which has all of it."""
    return _part.get()


def own(values: Any) -> Any:
    """The rows of this replica, `[m * b, ...]`, of values `[m * B, ...]` of the whole batch.

    Args:
        values: of m views of each image, one view of all images after the other; m may be 1.
    """
    mine = part()
    if mine is None:
        return values
    apart = tf.reshape(values, [-1, mine.count, mine.rows, *values.shape[1:]])
    return tf.reshape(apart[:, mine.number], [-1, *values.shape[1:]])


class Replicas:
    """The devices of a training.

    Args:
        devices: a replica for each; fewer than two: one device, where TensorFlow puts it.
        strategy: of `tf.distribute`, with devices of its own, in place of them.

    Attributes:
        count: R, in all processes.
        devices: those of this process; (): where TensorFlow puts it.
        processes: how many there are; `number` is which of them this is, 0..processes - 1.
    """

    def __init__(self, devices: Sequence[str] = (), *, strategy: Any = None):
        self.devices = tuple(devices) if len(devices) > 1 else ()
        self.count, self.processes, self.number = len(self.devices) or 1, 1, 0
        self._strategy = strategy
        if strategy is not None:
            self.devices = tuple(strategy.extended.worker_devices)
            self.count = strategy.num_replicas_in_sync
            self.processes = self.count // len(self.devices)
            self.number = strategy.cluster_resolver.task_id
            return
        if not self.devices:
            return
        # What goes between devices that are parts of one goes through its memory.
        physical = len(tf.config.list_physical_devices("GPU")) >= self.count
        by_nccl = physical and all("GPU" in device for device in self.devices)
        self._strategy = tf.distribute.MirroredStrategy(
            self.devices,
            cross_device_ops=None if by_nccl else tf.distribute.ReductionToOneDevice(),
        )

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Variables that are made within have a copy on every device."""
        return self._strategy.scope() if self._strategy else contextlib.nullcontext()

    def check(self, batch_size: int) -> None:
        """Raise ConfigError unless a batch can be divided among the replicas."""
        if batch_size % self.count:
            nearest = max(1, batch_size // self.count) * self.count
            raise ConfigError(
                f"batch_size: {batch_size} cannot be divided among {self.count} replicas. Set it "
                f"to a multiple such as {nearest}, or change runtime.replicas."
            )

    def copies(self, values: Any) -> list[Any]:
        """An array as a tensor on every device; `of_this_replica` picks one."""
        if not self.devices:
            return [tf.convert_to_tensor(values)]
        found = []
        for device in self.devices:
            with tf.device(device):
                found.append(tf.identity(tf.convert_to_tensor(values)))
        return found

    def run(self, function: Callable[[Any], Any], inputs: Any, batch_size: int) -> Any:
        """`function(inputs)` on every replica; what the first one returns. Graph code.

        Args:
            function: graph code; within it `part` says which rows are the replica's own.
            inputs: tensors, the same for all.
            batch_size: B.
        """
        if self._strategy is None:
            return function(inputs)

        def one(inputs: Any) -> Any:
            found = tf.distribute.get_replica_context().replica_id_in_sync_group
            number = int(tf.get_static_value(found))  # each replica is traced by itself
            token = _part.set(Part(number, self.count, batch_size // self.count))
            try:
                return function(inputs)
            finally:
                _part.reset(token)

        def first(values: Any) -> Any:
            return self._strategy.experimental_local_results(values)[0]

        return tf.nest.map_structure(first, self._strategy.run(one, args=(inputs,)))

    def agreed(self, value: int) -> int:
        """The value of the first process, once every one of them asks; graph code cannot."""
        if self.processes == 1:
            return value
        return int(self._of_first([tf.constant(value, tf.int64)])[0].numpy())

    def follow_first(self, variables: Sequence[Any]) -> None:
        """Give variables the values that they have in the first process; graph code cannot."""
        if self.processes == 1:
            return
        values = [tf.convert_to_tensor(variable.numpy()) for variable in variables]
        for variable, value in zip(variables, self._of_first(values), strict=True):
            variable.assign(value)

    def of_all(self, rows: Any) -> Any:
        """NumPy rows [n,...] of all processes, [processes * n,...], n alike; graph code cannot."""
        return rows if self.processes == 1 else self._of_all(tf.constant(rows)).numpy()

    @functools.cached_property
    def _of_all(self) -> Any:
        def told(rows: Any) -> Any:
            found = tf.distribute.get_replica_context().all_gather(tf.identity(rows)[None], axis=0)
            # The devices of a process all tell the same.
            return tf.reshape(found[:: len(self.devices)], [-1, *rows.shape[1:]])

        return tf.function(lambda values: self.run(told, values, self.count), autograph=False)

    @functools.cached_property
    def _of_first(self) -> Any:
        def told(values: list[Any]) -> list[Any]:
            mine = part()
            first = mine is None or mine.number == 0
            context, reduce = tf.distribute.get_replica_context(), tf.distribute.ReduceOp.SUM
            # On this device: what comes from outside of the function is on none yet.
            own = [tf.identity(v) if first else tf.zeros_like(v) for v in values]
            return [context.all_reduce(reduce, value) for value in own]  # of several dtypes

        # Made once, so that one number after the other is asked for without tracing.
        return tf.function(lambda values: self.run(told, values, self.count), autograph=False)


ALONE = Replicas()


@functools.cache
def processes() -> Replicas:
    """The devices of all processes that TF_CONFIG names; waits for them.

    Raises:
        ConfigError: TensorFlow has computed something before.
    """
    options = tf.distribute.experimental.CommunicationOptions(
        implementation=tf.distribute.experimental.CommunicationImplementation.AUTO
        if tf.config.list_physical_devices("GPU")
        else tf.distribute.experimental.CommunicationImplementation.RING
    )
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
    except RuntimeError as error:
        raise ConfigError(
            "runtime.strategy: TensorFlow has been used in this process before it could connect to "
            f"the others ({error}). Run the program in a process of its own."
        ) from error
    return Replicas(strategy=strategy)


def of_this_replica(copies: Sequence[Any]) -> Any:
    """The copy on this replica's device, of those that `Replicas.copies` made."""
    mine = part()
    return copies[0 if mine is None else mine.number % len(copies)]


def mean(values: list[Any]) -> list[Any]:
    """Means over the replicas, of tensors of any shape, without gradient."""
    if part() is None or not values:
        return values
    reduce = tf.distribute.ReduceOp.MEAN
    found = tf.distribute.get_replica_context().all_reduce(reduce, values)
    return [_alike(value) for value in found]


def of_all_rows(call: Callable[..., Any]) -> Callable[..., Any]:
    """A backbone's call of images `[m * b, ...]`, which returns the features of all, `[m * B, D]`.

    Calls of networks inside of networks are left alone.
    """

    @functools.wraps(call)
    def gathering(self: Any, x: Any, *arguments: Any, **options: Any) -> Any:
        mine = part()
        if mine is None or _in_backbone.get():
            return call(self, x, *arguments, **options)
        token = _in_backbone.set(True)
        try:
            features = call(self, x, *arguments, **options)
        finally:
            _in_backbone.reset(token)
        return _gathered(features, mine)

    return gathering


def moments(x: Any) -> tuple[Any, Any, int] | None:
    """Mean and variance f32 [channels] of x [...,channels] over the rows of all replicas.

    With them the number of values that each is of. None: nothing is to be shared, because there is
    one device, or because x is made of gathered features.
    """
    mine = part()
    if mine is None or not _in_backbone.get():
        return None
    axes = list(range(x.shape.rank - 1))
    own_mean, own_variance = tf.nn.moments(tf.cast(x, tf.float32), axes)
    # Means of squares would lose digits that the variances of the parts keep.
    means, variances = tf.unstack(_shared(tf.stack([own_mean, own_variance]), mine), axis=1)
    whole = tf.reduce_mean(means, 0)
    variance = tf.reduce_mean(variances, 0) + tf.reduce_mean((means - whole) ** 2, 0)
    return whole, variance, mine.count * (tf.size(x) // x.shape[-1])


def _gathered(features: Any, mine: Part) -> Any:
    """Features f32 [m * B,D] in the order of one device, of each replica's [m * b,D].

    All replicas get the same gradient for all rows, of which each takes its own, R times: the mean
    over the replicas is then the sum of their parts.
    """
    views, rest = divmod(features.shape[0], mine.rows)
    if rest or not views:
        raise ConfigError(
            f"runtime.strategy: the method calls its backbone on {features.shape[0]} images at a "
            f"time, where each of {mine.count} replicas has {mine.rows} of the batch. Methods that "
            "cut the batch, as pretext.batch_norm_groups does, need runtime.strategy=none."
        )
    width = features.shape[1:]

    @tf.custom_gradient
    def gather(x: Any) -> Any:
        parts = tf.distribute.get_replica_context().all_gather(x[None], axis=0)
        parts = tf.reshape(parts, [mine.count, views, mine.rows, *width])
        whole = tf.reshape(tf.transpose(parts, [1, 0, 2, 3]), [-1, *width])

        def gradient(upstream: Any) -> Any:
            return mine.count * own(upstream)

        whole = tf.ensure_shape(whole, [views * mine.count * mine.rows, *width])
        return _alike(whole), gradient

    return gather(features)


def _shared(values: Any, mine: Part) -> Any:
    """Values [...] of every replica as [R,...]; the gradients of all replicas flow back."""

    @tf.custom_gradient
    def gather(x: Any) -> Any:
        context = tf.distribute.get_replica_context()
        parts = tf.ensure_shape(context.all_gather(x[None], axis=0), [mine.count, *x.shape])

        def gradient(upstream: Any) -> Any:
            return context.all_reduce(tf.distribute.ReduceOp.SUM, upstream)[mine.number]

        return _alike(parts), gradient

    return gather(values)


def _alike(values: Any) -> Any:
    """Values that all replicas have, so that all go on with them alike, to the last bit.

    The optimiser of graphs knows how one of them came by the values and would compute otherwise
    there than on the others; it does not look through a copy.
    """
    return tf.raw_ops.Snapshot(input=values)
