"""What a command meets and nobody further down has explained: a package that is not installed, a place where it may not write.

Loaded only then, so that a command that works pays nothing for it.
"""

from __future__ import annotations

from enginepress.errors import EnginepressError

_EXTRAS = {
    "kfp": "kfp",
    "kfp_kubernetes": "kfp",
    "kfp_server_api": "kfp",
    "mlflow": "mlflow",
    "boto3": "s3",
    "botocore": "s3",
    "model_signing": "signing",
    "tokenizers": "onnxruntime",
    "torch": "onnxruntime",
    "transformers": "onnxruntime",
    "modelopt": "modelopt",
}
"""Which extra of enginepress brings a package."""


def explain(error: Exception) -> EnginepressError | None:
    """The error in words that name what to do; None for what is a mistake of ours and keeps its traceback."""
    if isinstance(error, ImportError):
        return _missing(error)
    if isinstance(error, OSError) and error.filename is not None:
        from enginepress.files import explain_os_error

        return explain_os_error(error, "reading or writing", EnginepressError)
    return None


def _missing(error: ImportError) -> EnginepressError | None:
    package = (error.name or "").partition(".")[0]
    if package in ("", "enginepress"):
        return None
    extra = _EXTRAS.get(package)
    again = f"pip install 'enginepress[{extra}]'" if extra else f"install {package} again, or all of enginepress's packages"
    if isinstance(error, ModuleNotFoundError):
        return EnginepressError(f"this needs the package {package}, which is not installed here", fix=again)
    return EnginepressError(f"the package {package} is not complete or not the one that this needs: {error.msg}", fix=again)
