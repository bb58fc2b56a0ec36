//! Settings as the command line and the files of `kakusan sample` spell them.

use kakusan::report::{quote, quote_path};

use crate::models::Model;
use crate::plan::Plan;
use crate::request::MaskWay;

/// Seeds as `--seeds` has them: `0..15`, or `3,5,8`.
pub(crate) fn seeds(seeds: &[u64]) -> String {
    match (seeds.first(), seeds.last()) {
        (Some(first), Some(last))
            if seeds.len() > 1 && seeds.windows(2).all(|pair| pair[0].checked_add(1) == Some(pair[1])) =>
        {
            format!("{first}..{last}")
        }
        _ => seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(","),
    }
}

/// The words of `--class` for these labels.
fn class_words(model: &Model, labels: &[u32]) -> Vec<String> {
    let mut names: Vec<String> = labels.iter().map(|&label| model.labels.name(label)).collect();
    let same = names.windows(2).all(|pair| pair[0] == pair[1]);
    let several = model.labels.by_class().iter().any(|(_, labels)| labels.len() > 1);
    if same || several {
        // the classes that take turns, once: each takes its labels in turn
        let repeats = |period: &usize| names.iter().zip(&names[*period..]).all(|(before, after)| before == after);
        let period = (1..names.len()).find(repeats).unwrap_or(names.len());
        names.truncate(period);
    }
    if names.iter().any(|name| name.contains([',', '.'])) { names } else { vec![names.join(",")] }
}

/// The `kakusan sample` command that draws the same images.
pub(crate) fn command(plan: &Plan, program: &str) -> String {
    let settings = &plan.settings;
    let mut words = vec![format!("{program} sample --model {}", quote_path(&plan.model.dir))];
    match &settings.interpolate {
        Some(way) => {
            words.push(format!("--interpolate {}..{} --frames {} --animate way.png", way.from, way.to, way.frames))
        }
        None => words.push(format!("--seeds {}", seeds(&settings.seeds))),
    }
    words.push(format!("--steps {}", settings.num_inference_steps));
    if !plan.repaints() && settings.scheduler != plan.model.scheduler.class_name() {
        words.push(format!("--scheduler {}", quote(&settings.scheduler)));
    }
    words.extend(settings.eta.map(|eta| format!("--eta {eta}")));
    if let Some(labels) = &settings.class_labels {
        words.extend(class_words(&plan.model, labels).into_iter().map(|word| format!("--class={}", quote(&word))));
    }
    if settings.guidance_scale != 1.0 {
        words.push(format!("--guidance={}", settings.guidance_scale));
    }
    words.extend(settings.guide.iter().map(|guide| format!("--guide {}", quote(guide))));
    if settings.init {
        words.push("--init init.png".into());
        words.extend(settings.strength.map(|strength| format!("--strength {strength}")));
    }
    if settings.mask {
        words.push("--mask mask.png".into());
        words.extend(plan.repaints().then(|| "--mask-way repaint".to_owned()));
    }
    words.push("--out samples.png".into());
    words.join(" ")
}

/// The settings, as `kakusan sample` writes them into its pictures.
pub(crate) fn about(plan: &Plan) -> Vec<(&'static str, String)> {
    let settings = &plan.settings;
    let scheduler = if plan.repaints() { "RePaintScheduler" } else { &settings.scheduler };
    let mut about = vec![
        ("Software", concat!("Kakusan ", env!("CARGO_PKG_VERSION")).to_owned()),
        ("model", plan.model.dir.display().to_string()),
        ("scheduler", scheduler.to_owned()),
        ("steps", settings.num_inference_steps.to_string()),
    ];
    if settings.interpolate.is_none() {
        about.push(("seeds", seeds(&settings.seeds)));
    }
    about.extend(settings.eta.map(|eta| ("eta", eta.to_string())));
    if let Some(labels) = &settings.class_labels {
        about.push(("class", class_words(&plan.model, labels).join(",")));
    }
    if settings.guidance_scale != 1.0 {
        about.push(("guidance", settings.guidance_scale.to_string()));
    }
    if !settings.guide.is_empty() {
        about.push(("guide", settings.guide.join(" ")));
        about.push(("guide way", kakusan::pipeline::GuidanceWay::default().to_string()));
    }
    if settings.init {
        about.push(("init", "init.png".into()));
        about.extend(settings.strength.map(|strength| ("strength", strength.to_string())));
    }
    if settings.mask {
        about.push(("mask", "mask.png".into()));
        let way = if settings.mask_way == Some(MaskWay::Repaint) { "repaint" } else { "blend" };
        about.push(("mask way", way.into()));
    }
    if let Some(way) = &settings.interpolate {
        about.push(("interpolate", format!("{}..{}", way.from, way.to)));
        about.push(("frames", way.frames.to_string()));
    }
    about
}

#[cfg(test)]
mod tests {
    #[test]
    fn seeds_in_a_row_are_a_range() {
        for (seeds, text) in [(&[5][..], "5"), (&[0, 1, 2], "0..2"), (&[3, 5], "3,5"), (&[1, 0], "1,0")] {
            assert_eq!(super::seeds(seeds), text);
        }
        assert_eq!(super::seeds(&[u64::MAX, 0]), format!("{},0", u64::MAX));
    }
}
