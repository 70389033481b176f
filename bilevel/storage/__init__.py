"""Results on disk: folders that appear whole or not at all, in JSON, CSV and safetensors."""
