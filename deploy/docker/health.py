"""The image's health check: asks /health/live on the port, and with the TLS, that LLAVA_* name."""

import os
import ssl
import urllib.request

port = os.environ.get("LLAVA_PORT", "8000")
context = None
if os.environ.get("LLAVA_SSL_CERT_FILE"):
    # The certificate is for the name that clients use, and this asks the loopback address.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
url = f"http{'s' if context else ''}://127.0.0.1:{port}/health/live"
urllib.request.urlopen(url, timeout=4, context=context).close()  # noqa: S310
