"""What stands beside the weights of SegFormer, SETR, SegViT and EoMT: settings that shapes do not show."""

from dataclasses import dataclass, field, fields, replace

from proscale.checkpoints.stated_settings import StatedSettings
from proscale.config import SlideConfig


@dataclass(frozen=True)
class StatedNetwork:
    """Every field may be unknown (None)."""

    common: StatedSettings = field(default_factory=StatedSettings)
    stage_heads: tuple[int, ...] | None = None
    """Mix Transformer: attention heads per stage."""
    norm_eps: float | None = None
    size: tuple[int, int] | None = None
    """(height, width) that pictures are squeezed to."""
    rounding: str | None = None
    """How sides are rounded, of `PreprocessConfig.rounding`."""
    slide: SlideConfig | None = None
    whole: bool | None = None
    """Evaluated without windows."""
    taps: tuple[int, ...] | None = None
    class_token: bool | None = None
    position: str | None = None
    """How positions are resized."""
    image_size: tuple[int, int] | None = None
    """(height, width) in pixels that learnt positions were trained for."""
    query_blocks: int | None = None
    """EoMT: how many of the last blocks see the queries."""
    shrink: int | None = None
    """SegViT Shrunk: the block that lets every second token a side through."""
    auxiliary: bool | None = None
    """False: a configuration says that there are no auxiliary heads."""
    rotary_base: float | None = None
    colours_given: bool = False
    """Whether mean and deviation are stated."""

    def or_else(self, other: "StatedNetwork") -> "StatedNetwork":
        """These settings, and `other`'s where these are silent."""
        own = [f.name for f in fields(self) if f.name not in ("common", "colours_given")]
        filled = {name: getattr(other, name) for name in own if getattr(self, name) is None}
        given = self.colours_given or other.colours_given
        return replace(self, common=self.common.or_else(other.common), colours_given=given, **filled)
