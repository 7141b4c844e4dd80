import hydra


@hydra.main(version_base=None, config_path="conf", config_name="multi_objective")
def main(cfg):
    return 4 * cfg.x**2 + 4 * cfg.y**2, (cfg.x - 5) ** 2 + (cfg.y - 5) ** 2


if __name__ == "__main__":
    main()
