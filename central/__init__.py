"""The consortium's side: gateway, vault, federation and signer as separate processes, and the web face."""
