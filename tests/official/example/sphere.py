import hydra


@hydra.main(version_base=None, config_path="conf", config_name="sphere")
def main(cfg):
    if cfg.get("error"):
        raise RuntimeError("cfg.error is True")
    return cfg.x**2 + cfg.y**2


if __name__ == "__main__":
    main()
