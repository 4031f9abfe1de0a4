"""One authority for a cluster, and what it signs: the API server's certificate and a kubeconfig for each client."""

from __future__ import annotations

import datetime
import ipaddress
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.cluster.layout import write

_LIFETIME = datetime.timedelta(days=365)


@dataclass(frozen=True)
class Authority:
    """A certificate authority that lives in a folder as `ca.crt` and `ca.key`."""

    folder: Path

    def make(self) -> None:
        """Make the authority, and the key that signs the tokens of service accounts."""
        self.folder.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("finetune-cluster", ())
        unsigned = _unsigned(name, name, key.public_key()).add_extension(
            x509.BasicConstraints(True, None), critical=True
        )
        write(self.folder / "ca.key", _pem(key))
        write(self.folder / "service-accounts.key", _pem(ec.generate_private_key(ec.SECP256R1())))
        write(self.folder / "ca.crt", unsigned.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def issue(self, file: str, name: str, groups: Sequence[str] = (), hosts: Sequence[str] = ()) -> tuple[bytes, bytes]:
        """Write `<file>.crt` and `<file>.key` for a user `name` of `groups`, or a server at `hosts`, and return both."""
        authority = x509.load_pem_x509_certificate((self.folder / "ca.crt").read_bytes())
        signer = serialization.load_pem_private_key((self.folder / "ca.key").read_bytes(), password=None)
        assert isinstance(signer, ec.EllipticCurvePrivateKey)
        key = ec.generate_private_key(ec.SECP256R1())
        unsigned = _unsigned(_name(name, groups), authority.subject, key.public_key())
        usage = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
        unsigned = unsigned.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if hosts:
            unsigned = unsigned.add_extension(
                x509.SubjectAlternativeName([_host(each) for each in hosts]), critical=False
            )
        certificate = unsigned.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        write(self.folder / f"{file}.key", _pem(key))
        write(self.folder / f"{file}.crt", certificate)
        return certificate, _pem(key)

    def write_kubeconfig(self, path: Path, server: str, user: str, groups: Sequence[str] = ()) -> None:
        """Write a kubeconfig by which `user` of `groups` speaks to `server`."""
        certificate, key = self.issue(user.replace(":", "-"), user, groups)
        authority = {"server": server, "certificate-authority-data": _base64((self.folder / "ca.crt").read_bytes())}
        credentials = {"client-certificate-data": _base64(certificate), "client-key-data": _base64(key)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "finetune",
            "clusters": [{"name": "finetune", "cluster": authority}],
            "users": [{"name": user, "user": credentials}],
            "contexts": [{"name": "finetune", "context": {"cluster": "finetune", "user": user}}],
        }
        write(path, yaml.safe_dump(config).encode())


def _unsigned(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key,
        serial_number=x509.random_serial_number(),
        not_valid_before=now - datetime.timedelta(minutes=5),
        not_valid_after=now + _LIFETIME,
    )


def _name(common: str, organizations: Sequence[str]) -> x509.Name:
    groups = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, each) for each in organizations]
    return x509.Name([*groups, x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


def _base64(content: bytes) -> str:
    return b64encode(content).decode()
