use serde::de::value::StrDeserializer;
use serde::de::{DeserializeOwned, Deserializer, Error as _};
use serde::ser::{Error as _, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A down block, as diffusers' `down_block_types` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum DownBlock {
    /// Residual blocks, then a convolution of stride 2.
    DownBlock2D,
    /// Residual blocks with attention after each, then `downsample_type`.
    AttnDownBlock2D,
    /// Residual blocks, the last of which halves the size by the mean of 2x2 pixels.
    ResnetDownsampleBlock2D,
    /// Residual blocks, smooth halving, and the halved image itself once more (Song et al. 2021, "NCSN++").
    SkipDownBlock2D,
    /// [`SkipDownBlock2D`](Self::SkipDownBlock2D) with attention after each residual block.
    AttnSkipDownBlock2D,
}

impl DownBlock {
    pub(super) fn attends(self) -> bool {
        matches!(self, Self::AttnDownBlock2D | Self::AttnSkipDownBlock2D)
    }

    pub(super) fn skips(self) -> bool {
        matches!(self, Self::SkipDownBlock2D | Self::AttnSkipDownBlock2D)
    }
}

/// An up block, as diffusers' `up_block_types` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum UpBlock {
    /// Residual blocks, then every pixel twice and a convolution.
    UpBlock2D,
    /// Residual blocks with attention after each, then `upsample_type`.
    AttnUpBlock2D,
    /// Residual blocks, the last of which doubles the size.
    ResnetUpsampleBlock2D,
    /// Residual blocks, smooth doubling, and an image that each block doubles and adds to.
    SkipUpBlock2D,
    /// [`SkipUpBlock2D`](Self::SkipUpBlock2D) with attention after the residual blocks.
    AttnSkipUpBlock2D,
}

impl UpBlock {
    pub(super) fn skips(self) -> bool {
        matches!(self, Self::SkipUpBlock2D | Self::AttnSkipUpBlock2D)
    }
}

/// The name of a block in a configuration. Old files write `UNetRes` before it, which means the same and stays as it is
/// when the configuration is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockType<K> {
    /// The block.
    pub kind: K,
    /// Whether its name begins with `UNetRes`.
    pub legacy: bool,
}

const LEGACY: &str = "UNetRes";

impl<K> From<K> for BlockType<K> {
    fn from(kind: K) -> Self {
        Self { kind, legacy: false }
    }
}

impl<K: Serialize> Serialize for BlockType<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let name = match serde_json::to_value(&self.kind) {
            Ok(Value::String(name)) => name,
            _ => return Err(S::Error::custom("a block without a name")),
        };
        serializer.serialize_str(&if self.legacy { format!("{LEGACY}{name}") } else { name })
    }
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for BlockType<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let (own, legacy) = match name.strip_prefix(LEGACY) {
            Some(own) => (own, true),
            None => (name.as_str(), false),
        };
        let kind = K::deserialize(StrDeserializer::<serde_json::Error>::new(own)).map_err(D::Error::custom)?;
        Ok(Self { kind, legacy })
    }
}
