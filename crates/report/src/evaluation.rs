//! The figures of an evaluation in a run's report.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use kakusan_eval::{Evaluation, Sampling};
use kakusan_pipeline::{Error, Result, write_whole};

use crate::page::{escape, size, thousands};

/// Between these lines of `report.html` the figures are shown. A training writes them with nothing between: figures of
/// an earlier state of the model would not be those of the page.
const BEGIN: &str = "<!-- evaluation -->\n";
const END: &str = "<!-- end of evaluation -->\n";

/// An empty place for the figures.
pub(crate) fn place() -> String {
    format!("{BEGIN}{END}")
}

/// Shows the figures in the `report.html` of the run in `dir`, in the place of earlier ones, with a `picture` (a PNG)
/// of samples beside their nearest images. Returns whether the folder has such a report.
///
/// # Errors
/// When the file cannot be written.
pub fn show_evaluation(dir: &Path, evaluation: &Evaluation, picture: Option<&[u8]>) -> Result<bool> {
    let path = dir.join("report.html");
    if !path.is_file() {
        return Ok(false);
    }
    let page = std::fs::read_to_string(&path);
    let page = page.map_err(|source| Error::Io { action: "read", path: path.clone(), source })?;
    let Some((before, rest)) = page.split_once(BEGIN) else { return Ok(false) };
    let Some((_, after)) = rest.split_once(END) else { return Ok(false) };
    let page = format!("{before}{BEGIN}{}{END}{after}", section(evaluation, picture));
    write_whole(&path, page.as_bytes())?;
    Ok(true)
}

/// How the figures were measured.
pub(crate) fn measurement(evaluation: &Evaluation) -> String {
    let how = match &evaluation.sampling {
        Some(Sampling { scheduler, steps, restored: None, .. }) => {
            format!(" were drawn by {scheduler} in {steps} steps and")
        }
        Some(Sampling { scheduler, steps, restored: Some(share), .. }) => format!(
            ", images of the data with noise, were restored by {scheduler} in the last {} % of {steps} steps and",
            100.0 * share
        ),
        None => String::new(),
    };
    let network = match &evaluation.network.training {
        Some(training) => format!(
            "a classifier that knows {:.1} % of {} held-out images",
            100.0 * training.accuracy,
            thousands(training.held_out)
        ),
        None => evaluation.network.name.clone(),
    };
    let mut text = format!(
        "{} samples{how} compared with {} images of the data, in the {} features of {network}.",
        thousands(evaluation.samples.images),
        thousands(evaluation.reference),
        thousands(evaluation.network.features),
    );
    let held_out = evaluation.held_out.as_ref().map(|held_out| held_out.images.as_str());
    if let Some(images) = held_out {
        text += &format!(" The yardstick is real images that are not among these: {images}.");
    }
    text
}

fn section(evaluation: &Evaluation, picture: Option<&[u8]>) -> String {
    let held_out = evaluation.held_out.as_ref().map(|held_out| held_out.images.as_str());
    let row = |[name, own, yardstick]: [String; 3]| {
        let [name, own, yardstick] = [name, own, yardstick].map(|cell| escape(&cell));
        format!("<tr><td>{name}</td><td>{own}</td><td>{yardstick}</td></tr>\n")
    };
    let rows: String = evaluation.rows().into_iter().map(row).collect();
    let yardstick = escape(held_out.unwrap_or("–"));
    let picture = picture.map_or_else(String::new, |png| {
        let ([width, height], data) = (size(png), BASE64.encode(png));
        format!(
            "<figure><div class=\"scroll\"><img src=\"data:image/png;base64,{data}\" alt=\"Samples, each beside its \
             nearest images of the data\" width=\"{width}\" height=\"{height}\"></div><figcaption>The samples that are \
             nearest to an image of the data, beside these images: nothing was memorised if they differ.</figcaption>\
             </figure>\n"
        )
    });
    format!(
        "<h2>How good the images are</h2>\n<p>{}</p>\n<table>\n<tr><th></th><th>samples</th><th>{yardstick}</th></tr>\n\
         {rows}</table>\n{picture}",
        escape(&measurement(evaluation))
    )
}

#[cfg(test)]
mod tests {
    use kakusan_eval::{Figures, NetworkUsed};

    use super::*;

    #[test]
    fn newer_figures_take_the_place_of_older_ones() {
        let figures = Figures {
            images: 2048,
            frechet_distance: 26.0,
            kid: 0.5,
            kid_std: 0.25,
            precision: 0.75,
            recall: 0.5,
            nearest: 1.5,
            sure: None,
            classes: None,
        };
        let mut evaluation = Evaluation {
            kakusan: "1".into(),
            model: "runs/<b>".into(),
            sampling: None,
            data: "digits".into(),
            reference: 18_435,
            network: NetworkUsed { name: "Inception & co".into(), features: 64, training: None },
            samples: figures,
            held_out: None,
        };
        let dir = tempfile::tempdir().unwrap();
        let read = || std::fs::read_to_string(dir.path().join("report.html")).unwrap();
        assert!(!show_evaluation(dir.path(), &evaluation, None).unwrap());
        std::fs::write(dir.path().join("report.html"), format!("<p>before</p>\n{}<p>after</p>\n", place())).unwrap();
        assert!(show_evaluation(dir.path(), &evaluation, Some(b"\x89PNG")).unwrap());
        let page = read();
        for part in ["<p>before</p>", "18,435 images", "Inception &amp; co", "<td>26.0</td>", "75.0 %", "<p>after</p>"]
        {
            assert!(page.contains(part), "{page}");
        }
        evaluation.samples.frechet_distance = 17.0;
        assert!(show_evaluation(dir.path(), &evaluation, None).unwrap());
        assert!(read().contains("<td>17.0</td>") && !read().contains("<td>26.0</td>") && !read().contains("<img"));
    }
}
