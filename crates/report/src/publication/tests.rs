#![cfg(test)]

use std::sync::Arc;

use candle_core::Device;
use kakusan_eval::{Figures, NetworkUsed};
use kakusan_models::{ModelConfig, Weights};
use kakusan_pipeline::{Labels, Registry};
use kakusan_rng::Generator;
use kakusan_scheduler::DDPMScheduler;

use super::*;

const RUN: &str = r#"
    data = { name = "mnist", dir = "/home/ada/mnist" }
    model = { _class_name = "UNet2DModel", sample_size = 8, in_channels = 1, out_channels = 1, layers_per_block = 1, norm_num_groups = 4, block_out_channels = [8, 8], down_block_types = ["DownBlock2D", "DownBlock2D"], up_block_types = ["UpBlock2D", "UpBlock2D"] }
    scheduler = { _class_name = "DDPMScheduler" }
    sample = { steps = 7 }
"#;

fn config(more: &[String]) -> RunConfig {
    RunConfig::parse(RUN, "test", more, &Registry::default()).unwrap()
}

fn pipeline_of(config: RunConfig) -> DDPMPipeline {
    let model: Arc<dyn ModelConfig> = config.model;
    let (weights, _) = Weights::initialise(&Device::Cpu, &mut Generator::new(0), |vb| model.build(vb)).unwrap();
    DDPMPipeline::new(model, weights, Arc::new(DDPMScheduler::default())).unwrap()
}

fn pipeline() -> DDPMPipeline {
    pipeline_of(config(&[]))
}

fn evaluation(data: &str) -> Evaluation {
    let samples = Figures {
        images: 512,
        frechet_distance: 0.43,
        kid: f64::NAN,
        kid_std: 0.0,
        precision: 0.75,
        recall: 0.5,
        nearest: 1.5,
        sure: None,
        classes: None,
    };
    Evaluation {
        kakusan: "1".into(),
        model: "/home/ada/runs/x".into(),
        sampling: None,
        data: data.into(),
        reference: 100,
        network: NetworkUsed { name: "classifier".into(), features: 64, training: None },
        samples,
        held_out: None,
    }
}

#[test]
fn a_folder_without_a_card_gets_one() {
    let pipeline = pipeline();
    let card = Publication::new("ada/digits", &pipeline).card(None);
    assert!(card.starts_with(
        "---\nlibrary_name: diffusers\npipeline_tag: unconditional-image-generation\ntags:\n- diffusion\n- kakusan\n---\n\n# digits\n"
    ));
    assert!(card.contains("A DDPMPipeline of a UNet2DModel with ") && card.contains("images of 1 x 8 x 8."), "{card}");
    assert!(card.contains("DDPMPipeline.from_pretrained(\"ada/digits\")"), "{card}");
    assert!(card.contains("from_hub(\"ada/digits\", \"main\""), "{card}");
    assert!(card.contains("kakusan sample --model ada/digits --batch 16"), "{card}");
    assert!(!card.contains("license") && !card.contains("model-index"), "{card}");
}

#[test]
fn classes_are_named() {
    let mut pipeline = pipeline_of(config(&["model.num_class_embeds=3".to_owned()]));
    pipeline.set_labels(Labels::new([(2, "a cat".to_owned())].into()));
    let card = Publication::new("ada/pets", &pipeline).card(None);
    assert!(
        card.starts_with("---\nlibrary_name: diffusers\ntags:\n- diffusion\n- kakusan\n- class-conditional\n---\n")
    );
    assert!(card.contains("sample --model ada/pets --class 'a cat' --batch 16\n"), "{card}");
    assert!(card.contains("labels = torch.full((16,), 2)") && card.contains("class_labels(vec![2; 16])"), "{card}");
}

#[test]
fn the_users_own_card_stays_and_missing_metadata_are_added() {
    let pipeline = pipeline();
    let mut publication = Publication::new("ada/digits", &pipeline);
    let own =
        "---\n# mine\nlicense: mit\ntags:\n- art\nmodel-index:\n- name: old\n  results: []\n---\nMy words: **here**.\n";
    let card = publication.card(Some(own));
    let expected = "---\n# mine\nlicense: mit\ntags:\n- art\nmodel-index:\n- name: old\n  results: []\n\
                    library_name: diffusers\npipeline_tag: unconditional-image-generation\n---\nMy words: **here**.\n\n<!-- how";
    assert!(card.starts_with(expected), "{card}");
    publication.license = Some("apache-2.0");
    let evaluation = evaluation("the Hub's data set a/b");
    publication.evaluation = Some(&evaluation);
    let card = publication.card(Some(own));
    assert!(card.contains("\nlicense: apache-2.0\n") && !card.contains("license: mit"), "{card}");
    assert!(card.contains("value: 0.43\n") && !card.contains("name: old"), "{card}");
    // published again, it is the same
    assert_eq!(publication.card(Some(&card)), card);
}

#[test]
fn no_path_of_this_machine_is_published() {
    let (pipeline, config) = (pipeline(), config(&[]));
    let source = SourceUsed { kind: Some(SourceKind::Dir), description: "the IDX files /home/ada/mnist/x".into() };
    for (data, shown, dataset) in [
        ("the IDX files /home/ada/mnist/x", "MNIST", "type: ylecun/mnist\n"),
        ("the folder /home/ada/others", "other images", "type: custom\n"),
    ] {
        let evaluation = evaluation(data);
        let mut publication = Publication::new("ada/digits", &pipeline);
        publication.run = Some((&config, Some(&source)));
        publication.evaluation = Some(&evaluation);
        let readme =
            format!("# Title\n\n{BEGIN}```sh\nxtask sample --model . --steps 7 --seed 3\n```\n{END}\n## More\n");
        let card = publication.card(Some(&readme));
        let public = publication.evaluation_in_public().unwrap();
        assert!(!card.contains("/home") && !format!("{public:?}").contains("/home"), "{card}");
        assert!(card.contains(&format!("      name: \"{shown}\"\n      {dataset}")), "{card}");
        assert!(card.contains("\ndatasets:\n- ylecun/mnist\n"), "{card}");
        assert!(card.contains("kakusan sample --model ada/digits --steps 7 --seed 3\n"), "{card}");
        assert!(card.contains("num_inference_steps=7") && card.contains("sample(16, 7,"), "{card}");
        assert!(card.contains("type: frechet-distance") && !card.contains("type: kid"), "NaN has no place: {card}");
        assert!(card.ends_with(&format!("{END}\n## More\n")), "{card}");
    }
    // drawn digits only stand in for the data set
    let drawn = SourceUsed { kind: Some(SourceKind::Drawn), description: "digits".into() };
    let mut publication = Publication::new("ada/digits", &pipeline);
    publication.run = Some((&config, Some(&drawn)));
    assert!(!publication.card(None).contains("ylecun"));
}

#[test]
fn a_text_cannot_leave_its_quotes() {
    assert_eq!(quote("a \"b\" \\ \n c"), r#""a \"b\" \\  c""#);
    assert_eq!(split("---\na: 1\n---\nbody\n---\n"), ("a: 1\n", "body\n---\n"));
    assert_eq!(split("---\nno end\n"), ("", "---\nno end\n"));
    assert_eq!(split("text"), ("", "text"));
}
