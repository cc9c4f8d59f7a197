"""Which clip each example of training is: the order that `stream.batches` and `trace` share.

```
example g -> data set by its share, number n in it
          -> epoch n // size, place n % size -> clip shuffled(place, seed, epoch)
```
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_pipeline._tf import tf

# `tf.random.experimental.index_shuffle` puts this before a seed, and pads a matrix of seeds on the
# wrong side.
_FIRST_SEED = 498_247_692


@dataclass(frozen=True)
class Order:
    """The order of the examples of one or several data sets.

    Args:
        counts: clips of each data set.
        shares, limit, seed, shuffle: as for `stream.batches`.
    """

    counts: Sequence[int]
    shares: Sequence[int]
    limit: int = 0
    seed: int = 0
    shuffle: bool = True

    @property
    def sizes(self) -> np.ndarray:
        """How many clips of each data set are used, int64 [data sets]."""
        return np.minimum(self.limit or self.counts, self.counts)

    def __call__(self, g: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Of examples by their number int64 [] or [n]: data set, clip in it, and epoch, int64."""
        part, n = tf.zeros_like(g), g
        if len(self.counts) > 1:
            shares, cycle = np.array(self.shares), sum(self.shares)
            first = np.cumsum([0, *shares[:-1]])
            slot = self._shuffled(g % cycle, tf.fill(tf.shape(g), np.int64(cycle)), -1 - g // cycle)
            part = tf.reduce_sum(tf.cast(slot[..., None] >= first, tf.int64), -1) - 1
            n = g // cycle * tf.gather(shares, part) + slot - tf.gather(first, part)
        size = tf.gather(self.sizes, part)
        clip, epoch = n % size, n // size
        if self.shuffle:
            clip = self._shuffled(clip, size, epoch)
        return part, clip * tf.gather(np.array(self.counts) // self.sizes, part), epoch

    def _shuffled(self, number: tf.Tensor, size: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        """`number` of `size`, shuffled by the key and the seed."""
        fixed = (_FIRST_SEED, self.seed % 2**32)
        seed = tf.stack([*(tf.fill(tf.shape(key), np.int64(each)) for each in fixed), key], -1)
        seed = tf.cast(seed, tf.uint32)
        return tf.raw_ops.RandomIndexShuffle(index=number, seed=seed, max_index=size - 1, rounds=4)
