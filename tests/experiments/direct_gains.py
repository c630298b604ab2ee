"""What a hospital gains, computed directly: a plain torch loop on its own rows, and scikit-learn's AUROC."""

import torch
from omegaconf import OmegaConf
from safetensors.numpy import load_file
from sklearn.metrics import roc_auc_score

from fedhealth.config.compose import compose_config
from fedhealth.config.instantiate import instantiate
from fedhealth.data.dataset import prepare_dataset
from fedhealth.experiment.site_gains import TUNING_STEPS
from fedhealth.models.model_state import set_model_arrays
from fedhealth.models.multimodal import build_model
from fedhealth.training.feature_cache import build_model_inputs
from fedhealth.training.losses import compute_row_losses


class DirectHospital:
    """One hospital's rows, for a run whose steps are over all of them and draw nothing at random."""

    def __init__(self, overrides, site):
        self.config = OmegaConf.to_object(compose_config([*overrides, f"data.sites=[{site}]"]))
        torch.set_num_threads(1)
        self.cohort = prepare_dataset(self.config.data, site)

    def compute_gains(self, weights):
        """Return the AUROC on the test rows of the model alone, of the shared one, and of a personal copy."""
        shared = load_file(weights)
        steps = self.config.strategy.rounds * self.config.training.local_steps
        begin = {"alone": ({}, steps), "shared": (shared, 0), "tuned": (shared, TUNING_STEPS)}
        return {name: self.score(self.train(*each)) for name, each in begin.items()}

    def train(self, arrays, steps):
        """Return a model after these steps from these arrays, or from its initial ones."""
        model = build_model(self.config.model, self.config.data, self.config.seed).train()
        set_model_arrays(model, arrays)
        inputs, rows = build_model_inputs(self.cohort, model), self.cohort.rows("train")
        optimizer = instantiate(self.config.training.optimizer)(list(model.parameters()))
        for _ in range(steps):
            optimizer.zero_grad()
            losses = compute_row_losses(model(inputs.batch(rows)), inputs.targets(rows), self.config.data.task.kind)
            losses.mean().backward()
            optimizer.step()
        return model

    def score(self, model):
        """Return the AUROC of the hospital's own test rows; every row is a patient."""
        inputs, rows = build_model_inputs(self.cohort, model.eval()), self.cohort.rows("test")
        with torch.inference_mode():
            scores = model(inputs.batch(rows)).double().numpy()[:, 0]
        return float(roc_auc_score(inputs.labels[rows].reshape(-1), scores))
