"""The cases of the schedulers that are neither of the k-family nor multistep, and how those of them are sampled
whose interface is their own."""

from itertools import product

from cases import case

CASES = {
    "EDMEulerScheduler": [
        *[
            case(prediction_type=prediction, sigma_schedule=schedule, final_sigmas_type=final)
            for prediction, schedule, final in product(
                ["epsilon", "v_prediction"], ["karras", "exponential"], ["zero", "sigma_min"]
            )
        ],
        case(sigma_min=0.02, sigma_max=50.0, sigma_data=1.0, rho=5.0),
        case(step={"s_churn": 2.0, "s_tmin": 0.1, "s_tmax": 50.0, "s_noise": 1.003}, seed=1),
        case(step={"s_churn": 40.0}, prediction_type="v_prediction"),
        case(start=4),
        case(steps=1),
        case(steps=25),
    ],
}
