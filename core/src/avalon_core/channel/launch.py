"""What of an enclave's configuration is measured: told on its command line at launch, and held against Configure.

The host configures an enclave over the channel, after it was measured. What decides how the enclave treats orders must
be part of its measurement all the same, or the host could choose it behind the requester's back. So the host says it
twice: at launch, where it is measured, and in Configure, which the enclave refuses if it says otherwise.
"""

from collections.abc import Mapping

from avalon_core.channel.messages import Configure


def measured_settings(configure: Configure) -> Mapping[str, str]:
    """The members of a configuration that are measured, as texts by name. What has its default is left out.

    Not measured: what only the worker's record tells (its name, organisation, application type, which the report data
    or the record's signature bind), how many orders run at a time, and whether keys outlive a restart.
    """
    settings = {}
    if configure.accept_legacy:
        settings["accept_legacy"] = "true"
    if configure.tenant is not None:
        settings["tenant"] = configure.tenant
    return settings
