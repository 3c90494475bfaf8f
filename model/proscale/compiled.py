"""A network compiled by torch.compile for padded sizes that are known in advance.

On a CPU a small network spends much of its time between the matrix products; compiled code fuses what lies between them.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from proscale.any_network import Network
from proscale.errors import CheckpointError
from proscale.predictions import NetworkPrediction, tensors_of, with_tensors

_OPTIONS = {
    "freezing": True,  # weights become constants, laid out once as the products want them; without, compiled code is the slower one
    "compile_threads": 1,  # else a pool of processes is started for what is then not compiled in them
}
"""Of torch._inductor.config. Not given to torch.compile, whose tracing would not see them."""


class CompiledNetwork:
    """A network's `predict`, compiled for some padded sizes; pictures of other sizes are computed as ever.

    Pictures of a compiled size are computed one by one: on a CPU a batch wins less than compiling for it would cost.
    """

    def __init__(self, network: Network, sizes: Iterable[tuple[int, int]]) -> None:
        """Compiles, which takes a minute or so per size.

        Args:
            network: in evaluation mode, on the CPU; its weights must not change any more.
            sizes: (height, width) in pixels, padded.

        Raises:
            CheckpointError: it cannot be compiled here; the text names the remedy.
        """
        self.network = network
        self._kinds: dict[tuple[int, int], NetworkPrediction] = {}
        self._compiled = {size: self._compile(*size) for size in dict.fromkeys(sizes)}

    @torch.inference_mode()
    def predict(self, images: Tensor) -> NetworkPrediction:
        """See the network's `predict`; images (B, 3, H, W), float32."""
        compiled = self._compiled.get((images.shape[2], images.shape[3]))
        if compiled is None:
            return self.network.predict(images)
        # A tensor of another kind would be compiled for anew, for a minute: so each is copied to one like the first, and no other is taken.
        singles = [image[None].clone(memory_format=torch.contiguous_format) for image in images]
        with torch.compiler.set_stance("fail_on_recompile"):
            tensors = zip(*map(compiled, singles), strict=True)
            return with_tensors(self._kinds[images.shape[2], images.shape[3]], [torch.cat(parts) for parts in tensors])

    def _compile(self, height: int, width: int) -> Callable[[Tensor], tuple[Tensor, ...]]:
        from torch._inductor import config  # seconds to import, so not for those who do not compile

        def predict(images: Tensor) -> tuple[Tensor, ...]:
            return tensors_of(self.network.predict(images))

        with torch.inference_mode():
            images = torch.zeros(1, 3, height, width)
            self._kinds[height, width] = self.network.predict(images)  # makes the constants of this size, too, which are not compiled
            compiled = torch.compile(predict, fullgraph=True, dynamic=False)
            try:
                with config.patch(_OPTIONS):
                    compiled(images)
            except Exception as error:
                reason = " ".join(str(error).split()[:40])
                raise CheckpointError(
                    f"the network cannot be compiled for {height}x{width} ({reason}): "
                    "torch.compile needs a C++ compiler (Debian: g++) and Python's headers (python3-dev); or turn compiling off"
                ) from error
        return compiled
