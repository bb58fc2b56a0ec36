/// The words in the names of UNet2DModel's tensors. Words of the same depth are in the order of torch's modules:
/// `mid_block` after the down and up blocks, attentions before the layers that they follow.
const WORDS: [&str; 32] = [
    "conv_in",
    "time_proj",
    "time_embedding",
    "class_embedding",
    "down_blocks",
    "up_blocks",
    "mid_block",
    "conv_norm_out",
    "conv_out",
    "augment_embedding",
    // a block
    "attentions",
    "resnets",
    "downsamplers",
    "upsamplers",
    "resnet_down",
    "resnet_up",
    "skip_conv",
    "skip_norm",
    // a layer of it
    "norm1",
    "conv1",
    "time_emb_proj",
    "norm2",
    "conv2",
    "conv_shortcut",
    "group_norm",
    "to_q",
    "to_k",
    "to_v",
    "to_out",
    "linear_1",
    "linear_2",
    "conv",
];

/// A tensor's place in the `state_dict` of Python's UNet2DModel. diffusers fills shards in this order;
/// names are sorted by it.
pub(crate) fn state_dict_order(name: &str) -> Vec<usize> {
    let of_word = |word: &str| WORDS.iter().position(|known| *known == word);
    let rank = |word: &str| match word {
        "weight" => 0,
        "bias" => 1,
        word => word.parse().ok().or_else(|| of_word(word)).unwrap_or(WORDS.len()),
    };
    name.split('.').map(rank).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_as_pythons_modules_have_them() {
        let golden = include_str!("../../../../tests/golden/checkpoints/names.json");
        let models: Vec<Vec<String>> = serde_json::from_str(golden).unwrap();
        assert_eq!(models.len(), 3);
        for expected in models {
            let mut names = expected.clone();
            names.sort();
            assert_ne!(names, expected);
            names.sort_by_key(|name| state_dict_order(name));
            assert_eq!(names, expected);
        }
    }
}
