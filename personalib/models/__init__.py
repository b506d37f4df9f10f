"""Language models: loading, parts, prompts, activations, memory, the hub and remote services."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "activations": ["capture"],
        "hub": ["model_presence"],
        "load": ["LanguageModel", "load_model"],
        "memory": ["Workload", "estimate_memory", "free_memory"],
        "parts": ["Parts", "Site", "blocks", "blocks_path", "check_parts", "final_norm", "tell_parts"],
        "prompts": ["encode", "encode_prompts", "format_prompt", "option_tokens"],
        "registry": ["ORGANISM", "find_entry", "load_registry"],
        "remote": ["load_remote_model", "runner_note"],
    },
)
