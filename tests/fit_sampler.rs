//! The command `fit-sampler`.

#[path = "support/command.rs"]
mod command;

use std::fs;

use command::{Done, Workplace};

const SMALL: [&str; 4] = ["--fine-steps", "12", "--images", "8"];

impl Workplace {
    fn fit(&self, args: &[&str]) -> Done {
        self.run(&[&["fit-sampler"], args, SMALL.as_slice()].concat())
    }

    /// The images of 4 steps.
    fn draw(&self, model: &str, more: &[&str]) -> (Vec<u8>, String) {
        let args = ["sample", "--model", model, "--batch", "2", "--steps", "4", "--save-tensor", "t.safetensors"];
        let said = self.run(&[&args, more].concat()).expect(0).stdout();
        (fs::read(self.path("t.safetensors")).unwrap(), said)
    }
}

#[test]
fn fitted_steps_are_saved_with_the_model_and_taken_by_sample_and_eval() {
    let place = Workplace::new();
    place.train("run", &["--set", "scheduler._class_name=FlowMatchEulerDiscreteScheduler"]).expect(0);
    let config = place.path("run/scheduler/scheduler_config.json");
    let (plain, said) = place.draw("run", &[]);
    assert!(!said.contains("fitted"), "{said}");

    let said = place.fit(&["--model", "run", "--steps", "4"]).expect(0).stdout();
    for part in ["Noise levels of FlowMatchEulerDiscreteScheduler: 1, ", "  4 fitted ", "  8 unfitted ", "--steps 4"] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    assert!(!said.contains("--scheduler"), "{said}");
    let (fitted, said) = place.draw("run", &[]);
    assert!(said.contains("The 4 steps are those that were fitted to the model"), "{said}");
    assert_ne!(fitted, plain);
    assert_eq!(place.draw("run", &["--unfitted"]).0, plain);
    let said = place.draw("run", &["--scheduler", "unipc"]).1;
    assert!(said.contains("are for FlowMatchEulerDiscreteScheduler: not used"), "{said}");
    let eval = ["eval", "--model", "run", "--images", "8", "--steps", "4", "--out"];
    for (out, more) in [("fitted", None), ("plain", Some("--unfitted"))] {
        place.run(&[&eval[..], &[out], more.as_slice()].concat()).expect(0);
    }
    let eval = |out: &str| fs::read_to_string(place.path(out).join("eval.json")).unwrap();
    assert!(eval("fitted").contains("\"fitted\": true") && !eval("plain").contains("\"fitted\""));
    assert_ne!(eval("fitted"), eval("plain"));

    // another number of steps is added, the same one replaced by itself
    let before = fs::read_to_string(&config).unwrap();
    place.fit(&["--model", "run", "--steps", "4"]).expect(0);
    assert_eq!(fs::read_to_string(&config).unwrap(), before);
    place.fit(&["--model", "run", "--steps", "3", "--out", "copy"]).expect(0);
    assert_eq!(fs::read_to_string(&config).unwrap(), before);
    assert_eq!(place.draw("copy", &[]).0, fitted);
    assert!(fs::read_to_string(place.path("copy/scheduler/scheduler_config.json")).unwrap().contains("\"3\": {"));
    let said = place.fit(&["--model", "run", "--steps", "3", "--out", "copy"]).expect(2).stderr();
    assert!(said.contains("copy exists already"), "{said}");
}

#[test]
fn a_scheduler_that_adds_noise_is_refused_and_another_is_fitted_beside_it() {
    let place = Workplace::new();
    let ddpm = ["_class_name=DDPMScheduler", "prediction_type=sample", "timestep_spacing=trailing"];
    let ddpm = ddpm.map(|set| format!("scheduler.{set}"));
    place.train("run", &["--set", &ddpm[0], "--set", &ddpm[1], "--set", &ddpm[2]]).expect(0);
    let said = place.fit(&["--model", "run", "--steps", "4"]).expect(2).stderr();
    assert!(
        said.contains("add new noise") && said.contains("others can: ") && said.contains("EulerDiscrete"),
        "{said}"
    );
    let plain = place.draw("run", &[]).0;
    let said = place.fit(&["--model", "run", "--steps", "4", "--scheduler", "dpmsolver"]).expect(0).stdout();
    assert!(said.contains("sample --model run --scheduler dpmsolver --steps 4"), "{said}");
    let (own, said) = place.draw("run", &[]);
    assert_eq!(own, plain);
    assert!(said.contains("are for DPMSolverMultistepScheduler: not used"), "{said}");
    let fitted = place.draw("run", &["--scheduler", "dpmsolver"]).0;
    assert_ne!(fitted, place.draw("run", &["--scheduler", "dpmsolver", "--unfitted"]).0);

    place.fit(&["--model", "run", "--steps", "4", "--scheduler", "dpmsolver", "--save-scheduler"]).expect(0);
    assert_eq!(place.draw("run", &[]).0, fitted);
    let info = place.run(&["info", "run", "--strict"]).expect(0).stdout();
    assert!(info.contains("with DPMSolverMultistepScheduler") && info.contains("\"_fitted_steps\": {"), "{info}");
}

#[test]
fn a_class_conditional_model_is_fitted_for_all_of_its_classes_or_some() {
    let place = Workplace::new();
    let config = command::few_of_each_class(&place);
    let small = ["data.sources=[\"drawn\"]", "data.drawn_per_class=6", "train.batch_size=8", "sample.steps=3"];
    let small = small.iter().chain(&["model.block_out_channels=[4,8,8]", "model.norm_num_groups=4"]);
    let sets: Vec<&str> = small.flat_map(|set| ["--set", set]).collect();
    let train = ["train", "--config", config.to_str().unwrap(), "--out", "run", "--max-steps", "2"];
    place.run(&[&train, sets.as_slice()].concat()).expect(0);
    for (more, named) in
        [([].as_slice(), " --class 0..9 "), (&["--class", "3,5", "--guidance", "2"], " --class 3,5 --guidance=2 ")]
    {
        let args = ["--model", "run", "--steps", "4", "--scheduler", "dpmsolver"];
        let said = place.fit(&[&args, more].concat()).expect(0).stdout();
        let (_, printed) = said.split_once(" sample ").unwrap();
        assert!(printed.contains(named), "{said}");
        place.run(&["sample"].into_iter().chain(printed.split_whitespace()).collect::<Vec<_>>()).expect(0);
    }
    let said = place.fit(&["--model", "run", "--steps", "4", "--class", "cat"]).expect(2).stderr();
    assert!(said.contains("there is no class `cat`"), "{said}");
}

#[test]
fn what_cannot_be_fitted_is_said_before_the_work() {
    let place = Workplace::new();
    place.train("run", &["--max-steps", "1"]).expect(0);
    for (args, code, part) in [
        (["--model", "run", "--steps", "1"], 2, "expected a whole number from 2 to 199"),
        (["--model", "run", "--steps", "12"], 2, "fewer than fine steps"),
        (["--model", "run", "--steps", "4"], 2, "LinearMixScheduler cannot be fitted"),
        (["--model", "nowhere", "--steps", "4"], 2, "save a copy by --out DIR"),
    ] {
        let said = place.fit(&args).expect(code).stderr();
        assert!(said.contains(part), "{part} is not in {said}");
    }
    let help = place.run(&["fit-sampler", "--help"]).expect(0).stdout();
    assert!(help.contains("GITS") && help.contains("--save-scheduler"), "{help}");
}
