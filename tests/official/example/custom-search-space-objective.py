import hydra


@hydra.main(version_base=None, config_path="conf", config_name="custom")
def main(cfg):
    return cfg.w**2 + cfg.x**2 + cfg.y**2 + cfg.z**2


def configure(cfg, trial):
    x, most = trial.params["x"], cfg.max_z_difference_from_x
    trial.suggest_float("z", x - most, x + most)
    trial.suggest_float("+w", 0.0, 1.0)


if __name__ == "__main__":
    main()
