"""A pretrained language model, SmolLM2-135M-Instruct, as the decoder of a LLaVA that answers about drawn scenes."""
