//! `[train]`: how a model is trained.

use candle_core::Tensor;
use kakusan_ops::{EmaConfig, PowerFunction};
use serde::{Deserialize, Serialize};

use super::lr_schedule::LrSchedule;

/// `[train]`: how the model is trained. The defaults are the tutorial's: Adam on the mean squared error.
///
/// A key that is `None` has a default. A key without effect is an error, so that no setting is ignored silently.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct TrainConfig {
    /// Passes over the images.
    pub epochs: usize,
    /// Images per batch; the last batch of an epoch may be smaller.
    pub batch_size: usize,
    /// The base learning rate, which `lr_scheduler` multiplies.
    pub learning_rate: f64,
    /// The seed of all random numbers of the run: `torch.manual_seed(seed)`.
    pub seed: u64,
    /// The upper limit on the number of optimiser steps. The learning rate schedule ends there too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<usize>,

    /// Parts of the model that stay as they are: `["down_blocks", "conv_in"]`, or parts of these such as
    /// `down_blocks.0`, by the names of their tensors. No gradient, weight decay or average touches them. For
    /// fine-tuning (`[model] from`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub freeze: Vec<String>,

    /// Train on pixels whose distance from middle grey is multiplied by this, from 1 to 2. Saved and shown images are
    /// clipped to black and white, so with 1.1 a background that the model misses by a little is still black. By
    /// default 1, or that of the pretrained model (`[model] from`). A scheduler with `clip_sample` needs a
    /// `clip_sample_range` as wide.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pixel_scale: Option<f64>,

    /// The optimiser.
    pub optimizer: OptimizerName,
    /// Adam, AdamW and Muon's AdamW: the decay rates of the first and second moments. 0.9 and 0.999 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub betas: Option<[f64; 2]>,
    /// Adam, AdamW and Muon's AdamW: added to the denominator. 1e-8 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eps: Option<f64>,
    /// AdamW and Muon: decoupled from the gradient, 0.01 by default. SGD: added to the gradient, 0 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
    /// SGD: 0 by default. Muon: 0.95 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub momentum: Option<f64>,
    /// The largest norm of the gradients of a step; larger gradients are scaled down to it. diffusers' script uses 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_grad_norm: Option<f64>,
    /// Batches per optimiser step: their gradients are accumulated, and the loss is the mean over all of their images,
    /// as if they were one batch. The last step of an epoch takes the remaining batches. "Steps" always means optimiser
    /// steps, also in the learning rate schedule.
    pub gradient_accumulation_steps: usize,

    /// How the learning rate changes over the steps.
    pub lr_scheduler: LrScheduler,
    /// Steps in which the learning rate rises from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr_warmup_steps: Option<usize>,
    /// The number of cosine cycles of `cosine_with_restarts`. 1 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr_num_cycles: Option<usize>,
    /// The exponent of `polynomial`. 1 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr_power: Option<f64>,
    /// The rules of `piecewise_constant`. `"1:1000,0.1:2000,0.01"` is the full rate up to step 1,000, a tenth of it up
    /// to step 2,000, and a hundredth after that (diffusers' `step_rules`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr_step_rules: Option<String>,

    /// The loss: the mean of this function of prediction - target.
    pub loss: LossType,
    /// The difference above which `huber` is linear. 1 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub huber_delta: Option<f64>,
    /// Weights each image's loss by its signal-to-noise ratio, clipped to this value (min-SNR, Hang et al. 2023, who
    /// use 5): `min(snr, gamma)` for `sample`, divided by `snr` for `epsilon`, by `snr + 1` for `v_prediction`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snr_gamma: Option<f64>,

    /// A flow: how often each noise level is drawn, and its weight in the loss, as in diffusers' SD3 script. By default
    /// all levels are drawn alike and weigh alike.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weighting_scheme: Option<WeightingScheme>,
    /// The mean of `logit_normal`: below 0 there is more noise. 0 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logit_mean: Option<f64>,
    /// The standard deviation of `logit_normal`. 1 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logit_std: Option<f64>,
    /// The scale of `mode`, from -1 to 1.75. 1.29 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode_scale: Option<f64>,
    /// EDM: draws the noise levels so that `ln σ` is normal with this mean, NVlabs' `P_mean` (Karras et al. 2022). -1.2
    /// by default if `p_std` is set; without either, the levels are drawn from the scheduler's own, as in diffusers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p_mean: Option<f64>,
    /// The standard deviation of `ln σ`, NVlabs' `P_std`. 1.2 by default if `p_mean` is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p_std: Option<f64>,

    /// The probability that an image's class is replaced by the model's last class, which means "no class".
    /// Classifier-free guidance needs it (Ho and Salimans 2022, who use 0.1). The model needs one class more than the
    /// images have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_dropout: Option<f64>,

    /// Recomputes the activations of the model's blocks in the backward pass: less memory, more time. Supported by
    /// `UNet2DModel`, on the CPU.
    pub gradient_checkpointing: bool,

    /// Keeps a moving average of the weights (diffusers' `EMAModel` with `use_ema_warmup`). Sampling and the run's
    /// `unet/` use it.
    pub use_ema: bool,
    /// Controls how the average's decay grows: in step `n` it is `1 - (1 + n / ema_inv_gamma)^-ema_power`. 1 by
    /// default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema_inv_gamma: Option<f64>,
    /// See `ema_inv_gamma`. 0.75 by default, as in diffusers' script.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema_power: Option<f64>,
    /// The upper limit of the decay. 0.9999 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema_max_decay: Option<f64>,
    /// The lower limit of the decay after the warm-up. 0 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema_min_decay: Option<f64>,
    /// For the first `ema_update_after_step + 1` steps the average equals the weights. 0 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema_update_after_step: Option<u64>,
    /// Keeps an average of the weights for each of these widths, in place of `use_ema`: a step counts by a power of its
    /// time, so that the average is as long as this fraction of the training (EDM2's power function averages, Karras et
    /// al. 2024, who use `[0.05, 0.1]`). Sampling and the run's `unet/` use the first. `kakusan average` makes those of
    /// other widths from the run's snapshots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema_sigma_rel: Option<Vec<f64>>,
    /// Snapshots of each of these averages in `averages/`, at even distances. 8 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema_snapshots: Option<usize>,

    /// Writes a checkpoint every this many steps, in addition to those after each epoch and on Ctrl-C.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_every: Option<usize>,
    /// How many of the newest checkpoints to keep: one to resume from, the others in case it is damaged.
    pub keep_checkpoints: usize,
    /// Also keeps the checkpoint with the lowest loss on the images of `data.validation`; without these, the one whose
    /// last 100 steps had the lowest mean loss.
    pub keep_best: bool,
    /// Also writes the metrics and the pictures of `sample_every` for TensorBoard, to `logs/` in the run.
    pub tensorboard: bool,
    /// Samples the images of `[sample]` every this many epochs, from the same noise each time: `images/epoch-001.png`
    /// ...
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample_every: Option<usize>,
    /// Measures 512 samples as the command `eval` does, every this many epochs: their Fréchet distance in the features
    /// of a classifier, and the share of which it is sure, in `eval.jsonl`. Done by the command `train`; a program uses
    /// `kakusan-eval` itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_every: Option<usize>,
}

impl Default for TrainConfig {
    /// The tutorial's values: 5 epochs, batches of 128, Adam with a learning rate of 1e-3, the mean squared error, seed
    /// 0.
    fn default() -> Self {
        Self {
            epochs: 5,
            batch_size: 128,
            learning_rate: 1e-3,
            seed: 0,
            max_steps: None,
            freeze: vec![],
            pixel_scale: None,
            optimizer: OptimizerName::Adam,
            betas: None,
            eps: None,
            weight_decay: None,
            momentum: None,
            max_grad_norm: None,
            gradient_accumulation_steps: 1,
            lr_scheduler: LrScheduler::Constant,
            lr_warmup_steps: None,
            lr_num_cycles: None,
            lr_power: None,
            lr_step_rules: None,
            loss: LossType::Mse,
            huber_delta: None,
            snr_gamma: None,
            weighting_scheme: None,
            logit_mean: None,
            logit_std: None,
            mode_scale: None,
            p_mean: None,
            p_std: None,
            class_dropout: None,
            gradient_checkpointing: false,
            use_ema: false,
            ema_inv_gamma: None,
            ema_power: None,
            ema_max_decay: None,
            ema_min_decay: None,
            ema_update_after_step: None,
            ema_sigma_rel: None,
            ema_snapshots: None,
            checkpoint_every: None,
            keep_checkpoints: 2,
            keep_best: false,
            tensorboard: false,
            sample_every: None,
            eval_every: None,
        }
    }
}

/// `train.optimizer`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum OptimizerName {
    /// `torch.optim.Adam`.
    Adam,
    /// `torch.optim.AdamW`: Adam with decoupled weight decay.
    AdamW,
    /// `torch.optim.SGD`.
    Sgd,
    /// Muon (Jordan et al. 2024) for the matrices and convolutions of the hidden layers, with steps as long as Adam's;
    /// AdamW for biases, scales, embeddings and the layers that read or write pixels. Fewer steps reach the same loss.
    Muon,
}

/// `train.lr_scheduler`: diffusers' `SchedulerType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum LrScheduler {
    /// Constant.
    Constant,
    /// Constant after the warm-up.
    ConstantWithWarmup,
    /// Linear decay to 0 at the end of the training.
    Linear,
    /// Half a cosine, down to 0.
    Cosine,
    /// Half a cosine down to 0, in `lr_num_cycles` cycles.
    CosineWithRestarts,
    /// A power of the remaining fraction of the training, down to 1e-7.
    Polynomial,
    /// Piecewise constant, by `lr_step_rules`.
    PiecewiseConstant,
}

impl LrScheduler {
    fn warms_up(self) -> bool {
        !matches!(self, Self::Constant | Self::PiecewiseConstant)
    }

    /// Whether the rate of a step depends on the total number of steps.
    pub(crate) fn knows_the_end(self) -> bool {
        matches!(self, Self::Linear | Self::Cosine | Self::CosineWithRestarts | Self::Polynomial)
    }
}

/// `train.loss`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum LossType {
    /// The squared difference.
    Mse,
    /// The absolute difference.
    L1,
    /// Half the squared difference up to `huber_delta`, linear above it: `torch.nn.functional.huber_loss`.
    Huber,
}

/// `train.weighting_scheme`: the densities and weights of a flow's noise levels (Esser et al. 2024, section 3.1;
/// diffusers' `compute_density_for_timestep_sampling` and `compute_loss_weighting_for_sd3`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum WeightingScheme {
    /// All levels are drawn alike and weigh alike, as without the key, but from other random numbers.
    None,
    /// The weight `1 / σ²`.
    SigmaSqrt,
    /// More of the middle: the logit of a level's place on the schedule is normal.
    LogitNormal,
    /// More of the middle, by `mode_scale`.
    Mode,
    /// The weight `2 / (π (1 - 2 σ + 2 σ²))`.
    Cosmap,
}

impl TrainConfig {
    /// Checks ranges and refuses keys without effect. The message begins with the key, in backticks.
    pub(crate) fn check(&self) -> Result<(), String> {
        let counts = [
            ("epochs", Some(self.epochs), 1_000_000),
            ("batch_size", Some(self.batch_size), 65_536),
            ("max_steps", self.max_steps, usize::MAX),
            ("gradient_accumulation_steps", Some(self.gradient_accumulation_steps), 65_536),
            ("lr_num_cycles", self.lr_num_cycles, 1_000_000),
            ("checkpoint_every", self.checkpoint_every, usize::MAX),
            ("sample_every", self.sample_every, 1_000_000),
            ("eval_every", self.eval_every, 1_000_000),
            ("keep_checkpoints", Some(self.keep_checkpoints), 1_000_000),
            ("ema_snapshots", self.ema_snapshots, 64),
        ];
        for (key, value, most) in counts {
            if let Some(value) = value
                && !(1..=most).contains(&value)
            {
                return Err(format!("`{key}` is {value}; it must be between 1 and {most}"));
            }
        }
        let above_0 = [
            ("learning_rate", Some(self.learning_rate)),
            ("max_grad_norm", self.max_grad_norm),
            ("huber_delta", self.huber_delta),
            ("snr_gamma", self.snr_gamma),
            ("ema_inv_gamma", self.ema_inv_gamma),
            ("logit_std", self.logit_std),
            ("p_std", self.p_std),
        ];
        let from_0 = [
            ("eps", self.eps),
            ("weight_decay", self.weight_decay),
            ("momentum", self.momentum),
            ("lr_power", self.lr_power),
            ("ema_power", self.ema_power),
        ];
        if let Some(share) = self.class_dropout.filter(|share| !(*share > 0.0 && *share < 1.0)) {
            return Err(format!("`class_dropout` is {share}; it must be between 0 and 1"));
        }
        for (values, least) in [(&above_0[..], "above 0"), (&from_0, "from 0 on")] {
            for (key, value) in values {
                if let Some(value) = value
                    && !(value.is_finite() && (*value > 0.0 || (*value == 0.0 && least == "from 0 on")))
                {
                    return Err(format!("`{key}` is {value}; it must be a number {least}"));
                }
            }
        }
        for (key, value) in [("logit_mean", self.logit_mean), ("p_mean", self.p_mean)] {
            if let Some(value) = value.filter(|value| value.is_nan() || value.abs() > 20.0) {
                return Err(format!("`{key}` is {value}; it must be between -20 and 20"));
            }
        }
        if let Some((key, _)) =
            [("p_mean", self.p_mean), ("p_std", self.p_std)].iter().find(|(_, value)| value.is_some())
            && self.weighting_scheme.is_some()
        {
            return Err(format!("`{key}` is for EDM, `weighting_scheme` for a flow: remove one of them"));
        }
        if let Some(scale) = self.pixel_scale.filter(|scale| !(1.0..=2.0).contains(scale)) {
            return Err(format!("`pixel_scale` is {scale}; it must be between 1 and 2"));
        }
        if let Some(scale) = self.mode_scale.filter(|scale| !(-1.0..=1.75).contains(scale)) {
            return Err(format!("`mode_scale` is {scale}; it must be between -1 and 1.75"));
        }
        if let Some(betas) = self.betas
            && !betas.iter().all(|beta| (0.0..1.0).contains(beta))
        {
            return Err(format!("`betas` is {betas:?}; both must be at least 0 and below 1, as in [0.9, 0.999]"));
        }
        if i64::try_from(self.seed).is_err() {
            return Err(format!("`seed` is {}; TOML holds numbers up to {}", self.seed, i64::MAX));
        }
        if let Some(widths) = &self.ema_sigma_rel {
            let ascending = widths.array_windows().all(|[a, b]| a < b);
            if !(1..=4).contains(&widths.len())
                || !ascending
                || widths.iter().any(|&width| PowerFunction::of_width(width).is_err())
            {
                let expected = "it must be one to four ascending numbers from 0.001 to 0.28, such as [0.05, 0.1]";
                return Err(format!("`ema_sigma_rel` is {widths:?}; {expected}"));
            }
            if self.use_ema {
                return Err("`ema_sigma_rel` averages in place of `use_ema`: remove one of them".into());
            }
        }
        self.check_effects()?;
        if self.lr_scheduler == LrScheduler::PiecewiseConstant && self.lr_step_rules.is_none() {
            let example = "lr_step_rules = \"1:1000,0.1:2000,0.01\"";
            return Err(format!("`lr_scheduler` = \"piecewise_constant\" needs rules, such as {example}"));
        }
        if self.lr_scheduler == LrScheduler::ConstantWithWarmup && self.lr_warmup_steps.is_none() {
            return Err("`lr_scheduler` = \"constant_with_warmup\" needs `lr_warmup_steps`, such as 500".into());
        }
        if self.lr_scheduler == LrScheduler::Polynomial && self.learning_rate <= 1e-7 {
            return Err("`learning_rate` must be above 1e-7, where `lr_scheduler` = \"polynomial\" ends".into());
        }
        LrSchedule::new(self, 1)?;
        let EmaConfig { max_decay, min_decay, .. } = self.ema();
        if !(0.0..=1.0).contains(&max_decay) {
            return Err(format!("`ema_max_decay` is {max_decay}; it must be between 0 and 1"));
        }
        if !(0.0..=max_decay).contains(&min_decay) {
            let most = format!("between 0 and `ema_max_decay`, {max_decay}");
            return Err(format!("`ema_min_decay` is {min_decay}; it must be {most}"));
        }
        Ok(())
    }

    /// Refuses keys without effect.
    fn check_effects(&self) -> Result<(), String> {
        const ADAM: &str = "optimizer = \"adam\", \"adamw\" or \"muon\"";
        const WARM: &str = "lr_scheduler = \"constant_with_warmup\", \"linear\", \"cosine\", \"cosine_with_restarts\" or \"polynomial\"";
        const EMA: &str = "use_ema = true";
        const LOGIT_NORMAL: &str = "weighting_scheme = \"logit_normal\"";
        let (optimizer, lr, scheme) = (self.optimizer, self.lr_scheduler, self.weighting_scheme);
        let is_adam = optimizer != OptimizerName::Sgd;
        let has_momentum = matches!(optimizer, OptimizerName::Sgd | OptimizerName::Muon);
        let keys = [
            ("betas", self.betas.is_some(), is_adam, ADAM),
            ("eps", self.eps.is_some(), is_adam, ADAM),
            (
                "weight_decay",
                self.weight_decay.is_some(),
                optimizer != OptimizerName::Adam,
                "optimizer = \"adamw\", \"muon\" or \"sgd\"",
            ),
            ("momentum", self.momentum.is_some(), has_momentum, "optimizer = \"sgd\" or \"muon\""),
            ("lr_warmup_steps", self.lr_warmup_steps.is_some(), lr.warms_up(), WARM),
            (
                "lr_num_cycles",
                self.lr_num_cycles.is_some(),
                lr == LrScheduler::CosineWithRestarts,
                "lr_scheduler = \"cosine_with_restarts\"",
            ),
            ("lr_power", self.lr_power.is_some(), lr == LrScheduler::Polynomial, "lr_scheduler = \"polynomial\""),
            (
                "lr_step_rules",
                self.lr_step_rules.is_some(),
                lr == LrScheduler::PiecewiseConstant,
                "lr_scheduler = \"piecewise_constant\"",
            ),
            ("huber_delta", self.huber_delta.is_some(), self.loss == LossType::Huber, "loss = \"huber\""),
            ("logit_mean", self.logit_mean.is_some(), scheme == Some(WeightingScheme::LogitNormal), LOGIT_NORMAL),
            ("logit_std", self.logit_std.is_some(), scheme == Some(WeightingScheme::LogitNormal), LOGIT_NORMAL),
            (
                "mode_scale",
                self.mode_scale.is_some(),
                scheme == Some(WeightingScheme::Mode),
                "weighting_scheme = \"mode\"",
            ),
            ("ema_inv_gamma", self.ema_inv_gamma.is_some(), self.use_ema, EMA),
            ("ema_power", self.ema_power.is_some(), self.use_ema, EMA),
            ("ema_max_decay", self.ema_max_decay.is_some(), self.use_ema, EMA),
            ("ema_min_decay", self.ema_min_decay.is_some(), self.use_ema, EMA),
            (
                "ema_snapshots",
                self.ema_snapshots.is_some(),
                self.ema_sigma_rel.is_some(),
                "ema_sigma_rel = [0.05, 0.1]",
            ),
            ("ema_update_after_step", self.ema_update_after_step.is_some(), self.use_ema, EMA),
        ];
        match keys.into_iter().find(|(_, is_set, has_effect, _)| *is_set && !has_effect) {
            Some((key, .., remedy)) => {
                Err(format!("`{key}` has no effect here; remove it, or set {remedy} in [train]"))
            }
            None => Ok(()),
        }
    }

    /// What the network is trained on: pixels from 0 to 1, with their distance from middle grey times
    /// [`pixel_scale`](Self::pixel_scale).
    ///
    /// # Errors
    /// Those of the tensor library.
    pub fn scaled(&self, pixels: Tensor) -> candle_core::Result<Tensor> {
        match self.pixel_scale {
            Some(scale) => pixels.affine(scale, 0.5 - 0.5 * scale),
            None => Ok(pixels),
        }
    }

    /// The settings of the moving average.
    pub(crate) fn ema(&self) -> EmaConfig {
        EmaConfig {
            max_decay: self.ema_max_decay.unwrap_or(0.9999),
            min_decay: self.ema_min_decay.unwrap_or(0.0),
            update_after_step: self.ema_update_after_step.unwrap_or(0),
            use_ema_warmup: true,
            inv_gamma: self.ema_inv_gamma.unwrap_or(1.0),
            power: self.ema_power.unwrap_or(0.75),
        }
    }
}
