"""Stand-in: see the package."""


def update_llm_args_with_extra_dict(arguments, extra):
    return {**arguments, **extra}
