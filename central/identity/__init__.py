"""Who asks: people by an OpenID provider, programs by API tokens, operators by their token files.

`settings` is the part of central.toml, `rights` what each role may, `provider` the way to the OpenID provider (the web
process alone goes it), `access` what was given out, and `principals` tells by a token who asks. The signer uses the
last one too, so that it need not take the web process's word.
"""
