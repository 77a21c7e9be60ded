"""The certificates with which nodes talk to each other."""

from __future__ import annotations

import ssl

from appliance.config import Cluster


def client_context(cluster: Cluster) -> ssl.SSLContext:
    """For asking other nodes: both sides show a certificate of the cluster's own authority."""
    context = ssl.create_default_context(cafile=str(cluster.ca))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(cluster.certificate, cluster.key)
    return context


def problem(cluster: Cluster) -> str:
    """Why the files of ``cluster`` cannot be used; empty when they can."""
    for key in ("ca", "certificate", "key"):
        path = getattr(cluster, key)
        try:
            path.read_bytes()
        except OSError as error:
            return f"cluster.{key}: {path} cannot be read: {error.strerror}"
    try:
        client_context(cluster)
    except (ssl.SSLError, OSError) as error:
        return (
            f"cluster.ca, cluster.certificate and cluster.key do not belong together: {error}; "
            "they are PEM files, and the key is that of the certificate"
        )
    return ""
