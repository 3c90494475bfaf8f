"""The certificate for HTTPS, read anew when its files change: they are renewed every few months, and a server should not end for it."""

import logging
import ssl
from pathlib import Path

from proscale_service import logs
from proscale_service.file_stamp import stamp

_LOG = logging.getLogger(__name__)


class CertificateError(Exception):
    """Certificate and key cannot be used; the text says why."""


class Certificate:
    """A certificate and its key, in a TLS context that new connections use."""

    def __init__(self, cert_file: Path, key_file: Path) -> None:
        """Args: PEM files; the certificate with its chain.

        Raises:
            CertificateError: they cannot be read, or do not belong together.
        """
        self._files = cert_file, key_file
        self.context = self._load()

    def renew(self) -> None:
        """Use the files anew if they have changed. When they cannot be used, what was read before stays, and the log says so."""
        if self._stamps() == self._loaded:
            return
        try:
            self._load()
            # Into the same context, for it is the one that the listening socket has.
            self.context.load_cert_chain(*self._files)
            logs.event(_LOG, logging.WARNING, "the TLS certificate was read anew")
        except (CertificateError, OSError) as error:
            logs.event(
                _LOG, logging.ERROR, "the TLS certificate has changed and cannot be used: the OLD ONE STAYS IN USE", reason=str(error)
            )

    def _load(self) -> ssl.SSLContext:
        self._loaded = self._stamps()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(*self._files)
        except OSError as error:  # ssl.SSLError is one
            names = " and ".join(map(str, self._files))
            raise CertificateError(f"the TLS certificate and key {names} cannot be used: {error.strerror or error}") from error
        return context

    def _stamps(self) -> tuple[object, object]:
        return stamp(self._files[0]), stamp(self._files[1])
