//! What older versions of diffusers wrote, as today's has it.

use kakusan_config::Config;
use serde_json::Value;

/// Fields that `EMAModel.save_pretrained` leaves in a model's `config.json`; they say nothing of the model.
const OF_AVERAGED_WEIGHTS: [&str; 7] =
    ["decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup"];

/// Whether a field may stand in a model's `config.json` without being one of the model's: those that begin with `_`
/// (`_class_name`, `_name_or_path`) and those of the averaged weights that training scripts save.
pub fn is_harmless(field: &str) -> bool {
    field.starts_with('_') || OF_AVERAGED_WEIGHTS.contains(&field)
}

/// The name that a tensor of an attention block has since diffusers 0.13. Before, what are now `to_q`, `to_k`, `to_v`
/// and `to_out.0` were `query`, `key`, `value` and `proj_attn`; the tensors themselves are the same.
///
/// ```
/// use kakusan_models::legacy::attention_name;
///
/// assert_eq!(attention_name("mid_block.attentions.0.proj_attn.bias"), "mid_block.attentions.0.to_out.0.bias");
/// assert_eq!(attention_name("conv_in.weight"), "conv_in.weight");
/// ```
pub fn attention_name(name: &str) -> String {
    let mut parts = name.rsplitn(4, '.');
    let (Some(kind @ ("weight" | "bias")), Some(layer), Some(number)) = (parts.next(), parts.next(), parts.next())
    else {
        return name.to_owned();
    };
    let blocks = parts.next().unwrap_or_default();
    let layer = match layer {
        "query" => "to_q",
        "key" => "to_k",
        "value" => "to_v",
        "proj_attn" => "to_out.0",
        _ => return name.to_owned(),
    };
    let in_block = blocks == "attentions" || blocks.ends_with(".attentions");
    if in_block && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) {
        format!("{blocks}.{number}.{layer}.{kind}")
    } else {
        name.to_owned()
    }
}

/// Fills in the fields of a model's configuration that are absent and that did not mean then what they default to now.
/// `version` is the file's `_diffusers_version`.
///
/// From its first release, 0.1.0, to 0.42, `UNet2DModel` has had the same defaults, and each field that came later has
/// a default that changes nothing; a file of those versions needs none filled in. The files that say an older version
/// were converted by hand from the original DDPM and score models (google/ddpm-* and the like), whose attention has one
/// head as wide as all channels: there an absent `attention_head_dim` means null, not 8.
pub fn fill_defaults(class_name: &str, version: Option<&str>, fields: &mut Config) {
    let before_the_first_release = version.and_then(major_minor).is_some_and(|version| version < (0, 1));
    if class_name == "UNet2DModel" && before_the_first_release {
        fields.entry("attention_head_dim").or_insert(Value::Null);
    }
}

/// The first two numbers of `0.12.0.dev0`.
fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn attention_layers_get_todays_names_and_nothing_else_does() {
        for (old, new) in [
            ("query", "to_q"),
            ("key", "to_k"),
            ("value", "to_v"),
            ("proj_attn", "to_out.0"),
            ("to_q", "to_q"),
            ("group_norm", "group_norm"),
        ] {
            for block in ["mid_block.attentions.0", "down_blocks.1.attentions.12", "attentions.0"] {
                for kind in ["weight", "bias"] {
                    let name = attention_name(&format!("{block}.{old}.{kind}"));
                    assert_eq!(name, format!("{block}.{new}.{kind}"));
                    assert_eq!(attention_name(&name), name);
                }
            }
        }
        for other in
            ["query.weight", "x.query.weight", "attentions.x.query.weight", "attentions..query.bias", "query", ""]
        {
            assert_eq!(attention_name(other), other);
        }
        assert_eq!(attention_name("attentions.0.query.scale"), "attentions.0.query.scale");
        assert_eq!(attention_name("myattentions.0.query.bias"), "myattentions.0.query.bias");
    }

    #[test]
    fn an_absent_head_dim_means_one_head_before_the_first_release_alone() {
        let filled = |class: &str, version: Option<&str>, config: Value| {
            let Value::Object(mut config) = config else { panic!() };
            fill_defaults(class, version, &mut config);
            Value::Object(config)
        };
        assert_eq!(filled("UNet2DModel", Some("0.0.4"), json!({})), json!({ "attention_head_dim": null }));
        let given = json!({ "attention_head_dim": 64 });
        assert_eq!(filled("UNet2DModel", Some("0.0.4"), given.clone()), given);
        for version in [Some("0.1.0"), Some("0.1.3"), Some("0.12.0.dev0"), Some("0.42.1"), Some("1.0"), Some("?"), None]
        {
            assert_eq!(filled("UNet2DModel", version, json!({})), json!({}), "{version:?}");
        }
        assert_eq!(filled("BasicUNet", Some("0.0.4"), json!({})), json!({}));
    }
}
