/// The words of which the names of UNet2DModel's tensors are made, each level's in the order in which torch's modules
/// have them: `mid_block` after the blocks that it is between, attentions before the layers that they follow.
const WORDS: [&str; 31] = [
    "conv_in",
    "time_proj",
    "time_embedding",
    "class_embedding",
    "down_blocks",
    "up_blocks",
    "mid_block",
    "conv_norm_out",
    "conv_out",
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

/// Where a tensor of UNet2DModel stands in Python's `state_dict`, which is the order in which diffusers fills shards:
/// names are to be sorted by it.
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
