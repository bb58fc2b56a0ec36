"""The cases of the DPM-Solver family: DPM-Solver++, its inverse, single steps, UniPC, DEIS, SA-Solver, and EDM's
DPM-Solver++."""

from itertools import product

from cases import case

SPACINGS = ["linspace", "leading", "trailing"]
CONVERSIONS = ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"]
THRESHOLDING = {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 2.0}


def flow(mu=None, **config):
    """A sampling of a flow."""
    made = case(use_flow_sigmas=True, **{"prediction_type": "flow_prediction"} | config)
    if mu is not None:
        made["config"]["use_dynamic_shifting"] = True
        made["options"]["mu"] = mu
    return made


def counted(**config):
    """A sampling that counts its steps instead of looking timesteps up, for runs with two calls at one timestep."""
    return case(**config) | {"begin_index": True}


def exact(made):
    """A sampling whose coefficients diffusers computes in f64, if f32 rounds them by more than the tests allow."""
    return made | {"double": True}


CASES = {
    "DPMSolverMultistepScheduler": [
        *[
            case(solver_order=order, algorithm_type=algorithm, solver_type=solver, final_sigmas_type="sigma_min")
            for algorithm, order, solver in product(
                ["dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++"], [1, 2, 3], ["midpoint", "heun"]
            )
            if (algorithm, order) != ("sde-dpmsolver", 3) and (order, solver) not in [(1, "heun"), (3, "heun")]
        ],
        *[
            case(prediction_type=prediction, timestep_spacing=spacing)
            for prediction, spacing in product(["epsilon", "sample", "v_prediction"], SPACINGS)
        ],
        *[
            case(steps=20, solver_order=3, prediction_type="v_prediction", **{conversion: True})
            for conversion in [*CONVERSIONS, "use_lu_lambdas"]
        ],
        *[
            case(algorithm_type="dpmsolver", final_sigmas_type="sigma_min", prediction_type=prediction, **THRESHOLDING)
            for prediction in ["epsilon", "sample", "v_prediction"]
        ],
        case(**THRESHOLDING),
        case(steps=20, solver_order=3),
        case(steps=20, solver_order=3, lower_order_final=False, final_sigmas_type="sigma_min"),
        case(steps=20, euler_at_final=True, final_sigmas_type="sigma_min"),
        case(steps=4, solver_order=3, lower_order_final=False),
        case(steps=1),
        case(steps=20, use_karras_sigmas=True, final_sigmas_type="sigma_min"),
        case(beta_schedule="squaredcos_cap_v2", lambda_min_clipped=-5.1),
        case(beta_schedule="squaredcos_cap_v2", lambda_min_clipped=-5.1, timestep_spacing="trailing", steps=7),
        case(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, timestep_spacing="leading", steps_offset=1),
        counted(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", use_karras_sigmas=True),
        counted(steps=25, prediction_type="v_prediction", use_karras_sigmas=True, seed=1),
        *[
            case(rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing=spacing)
            for spacing in SPACINGS
        ],
        flow(),
        flow(flow_shift=3.0, steps=20, solver_order=3),
        flow(mu=0.7, prediction_type="sample"),
        flow(prediction_type="epsilon", algorithm_type="dpmsolver", final_sigmas_type="sigma_min"),
        case(timesteps=[999, 700, 650, 20, 3]),
        case(timesteps=[999, 700, 650, 20, 3], algorithm_type="sde-dpmsolver++", solver_order=3),
        case(start=4),
        case(start=4, solver_order=3, use_karras_sigmas=True),
        flow(start=3),
    ],
    "UniPCMultistepScheduler": [
        *[
            case(solver_order=order, solver_type=solver, predict_x0=predict_x0, final_sigmas_type="sigma_min")
            for order, solver, predict_x0 in product([1, 2, 3], ["bh1", "bh2"], [True, False])
        ],
        *[
            case(prediction_type=prediction, timestep_spacing=spacing)
            for prediction, spacing in product(["epsilon", "sample", "v_prediction"], SPACINGS)
        ],
        *[
            case(steps=20, solver_order=3, prediction_type="v_prediction", final_sigmas_type=final, **{conversion: True})
            for conversion, final in product(CONVERSIONS, ["zero", "sigma_min"])
        ],
        case(solver_order=5, prediction_type="sample", steps=12),
        case(use_karras_sigmas=True, sigma_min=0.05, sigma_max=20.0),
        case(prediction_type="sample", predict_x0=False, final_sigmas_type="sigma_min"),
        case(prediction_type="v_prediction", predict_x0=False, final_sigmas_type="sigma_min"),
        case(**THRESHOLDING),
        case(lower_order_final=False, final_sigmas_type="sigma_min", solver_order=3),
        case(disable_corrector=[0, 3, 4]),
        case(steps=1),
        case(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction"),
        case(timestep_spacing="leading", steps_offset=1),
        case(rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing"),
        case(solver_p={"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3}),
        flow(),
        flow(flow_shift=3.0, final_sigmas_type="sigma_min", solver_order=3),
        flow(mu=0.7),
        flow(mu=2.5, time_shift_type="linear"),
        flow(shift_terminal=0.1, flow_shift=2.0),
        flow(use_karras_sigmas=True),
        flow(use_karras_sigmas=True, prediction_type="sample", predict_x0=False, final_sigmas_type="sigma_min"),
        case(start=4),
        case(start=4, solver_order=3),
    ],
    "DEISMultistepScheduler": [
        *[case(solver_order=order) for order in [1, 2, 3]],
        *[
            case(prediction_type=prediction, timestep_spacing=spacing)
            for prediction, spacing in product(["epsilon", "sample", "v_prediction"], SPACINGS)
        ],
        *[
            exact(case(steps=steps, solver_order=order, prediction_type="v_prediction", **{conversion: True}))
            for steps, (conversion, order) in product([10, 20], zip(CONVERSIONS, [3, 3, 2]))
        ],
        case(**THRESHOLDING),
        case(steps=20, solver_order=3),
        case(lower_order_final=False, solver_order=3),
        case(steps=1),
        exact(case(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")),
        case(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, timestep_spacing="leading", steps_offset=1),
        flow(),
        exact(flow(flow_shift=3.0, steps=20, solver_order=3)),
        flow(mu=0.7, prediction_type="sample"),
        case(start=4),
        case(start=8),
    ],
    "DPMSolverSinglestepScheduler": [
        *[
            case(steps=6, solver_order=order, algorithm_type=algorithm, solver_type=solver, final_sigmas_type="sigma_min")
            for algorithm, order, solver in product(
                ["dpmsolver", "dpmsolver++", "sde-dpmsolver++"], [1, 2, 3], ["midpoint", "heun"]
            )
            if (order, solver) != (1, "heun")
        ],
        *[case(prediction_type=prediction) for prediction in ["epsilon", "sample", "v_prediction"]],
        *[case(steps=steps, solver_order=3, prediction_type="v_prediction") for steps in [1, 2, 3, 6, 7, 8]],
        *[
            case(steps=12, solver_order=3, final_sigmas_type="sigma_min", lower_order_final=lower, **{conversion: True})
            for lower, conversion in product([True, False], CONVERSIONS)
        ],
        case(steps=7, solver_order=2, final_sigmas_type="sigma_min"),
        case(**THRESHOLDING),
        case(beta_schedule="squaredcos_cap_v2", lambda_min_clipped=-5.1),
        flow(),
        flow(flow_shift=3.0, steps=20, solver_order=3),
        flow(mu=0.7, prediction_type="sample"),
        case(timesteps=[999, 700, 650, 20, 3]),
        *[case(start=start, steps=9, solver_order=3) for start in [1, 2, 3]],
    ],
    "DPMSolverMultistepInverseScheduler": [
        *[
            case(solver_order=order, algorithm_type=algorithm, solver_type=solver)
            for algorithm, order, solver in product(["dpmsolver", "dpmsolver++"], [1, 2, 3], ["midpoint", "heun"])
            if (order, solver) not in [(1, "heun"), (3, "heun")]
        ],
        *[
            case(prediction_type=prediction, timestep_spacing=spacing)
            for prediction, spacing in product(["epsilon", "sample", "v_prediction"], SPACINGS)
        ],
        *[exact(case(prediction_type="v_prediction", **{conversion: True})) for conversion in CONVERSIONS],
        *[
            case(algorithm_type=algorithm, prediction_type="v_prediction", **THRESHOLDING)
            for algorithm in ["dpmsolver", "dpmsolver++"]
        ],
        case(steps=20, solver_order=3),
        case(steps=20, euler_at_final=True),
        case(lower_order_final=False),
        case(beta_schedule="squaredcos_cap_v2", lambda_min_clipped=-5.1),
        case(beta_schedule="squaredcos_cap_v2", lambda_min_clipped=-5.1, timestep_spacing="trailing", steps=7),
        case(timestep_spacing="leading", steps_offset=1),
        case(start=4),
    ],
    "SASolverScheduler": [
        *[
            case(predictor_order=predictor, corrector_order=corrector, algorithm_type=algorithm)
            for algorithm, (predictor, corrector) in product(
                ["data_prediction", "noise_prediction"], [(1, 1), (2, 2), (3, 3), (4, 4), (1, 3), (3, 1)]
            )
        ],
        *[
            case(prediction_type=prediction, timestep_spacing=spacing)
            for prediction, spacing in product(["epsilon", "sample", "v_prediction"], SPACINGS)
        ],
        *[
            exact(case(steps=20, predictor_order=3, prediction_type="v_prediction", **{conversion: True}))
            for conversion in CONVERSIONS
        ],
        *[
            case(algorithm_type="noise_prediction", prediction_type=prediction)
            for prediction in ["sample", "v_prediction"]
        ],
        case(**THRESHOLDING),
        case(lower_order_final=False, predictor_order=3, corrector_order=4),
        case(steps=1),
        exact(case(steps=20, predictor_order=3, corrector_order=4, seed=1)),
        case(beta_schedule="squaredcos_cap_v2", lambda_min_clipped=-5.1, prediction_type="v_prediction"),
        case(timestep_spacing="leading", steps_offset=1),
        flow(),
        flow(flow_shift=3.0, steps=20),
        case(start=4),
        case(start=4, predictor_order=3, corrector_order=4),
        exact(case(start=4, use_karras_sigmas=True, prediction_type="v_prediction")),
    ],
    "EDMDPMSolverMultistepScheduler": [
        *[
            case(solver_order=order, algorithm_type=algorithm, solver_type=solver, final_sigmas_type=final)
            for algorithm, order, solver, final in product(
                ["dpmsolver++", "sde-dpmsolver++"], [1, 2, 3], ["midpoint", "heun"], ["zero", "sigma_min"]
            )
            if (algorithm, order) != ("sde-dpmsolver++", 3) and (order, solver) not in [(1, "heun"), (3, "heun")]
        ],
        case(prediction_type="v_prediction"),
        case(sigma_schedule="exponential"),
        case(sigma_min=0.01, sigma_max=20.0, sigma_data=1.0, rho=5.0),
        case(**THRESHOLDING),
        case(steps=20, solver_order=3),
        case(steps=20, euler_at_final=True, final_sigmas_type="sigma_min"),
        case(lower_order_final=False, solver_order=3),
        case(start=4),
    ],
}
