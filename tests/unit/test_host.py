"""What a host is beside its GPUs, from the files of a made-up /sys and /proc."""

from pathlib import Path

import pytest

from harness.node.host import host, variables

CORE = "processor : {thread}\nflags : fpu {flag} avx\nphysical id : {socket}\ncore id : {core}\n"


def files(folder: Path, contents: dict[str, str]) -> Path:
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content + "\n")
    return folder


def processors(folder: Path, flag: str) -> Path:
    """Two sockets of two cores with two threads each."""
    blocks = [
        CORE.format(thread=thread, flag=flag, socket=thread // 4, core=thread // 2 % 2).replace(" :", "\t:")
        for thread in range(8)
    ]
    return files(folder, {"cpuinfo": "\n".join(blocks)})


def system(folder: Path) -> Path:
    cache = "devices/system/cpu/cpu0/cache"
    return files(
        folder,
        {
            "devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "3700000",
            f"{cache}/index0/level": "1",
            f"{cache}/index0/type": "Data",
            f"{cache}/index0/size": "32K",
            f"{cache}/index3/level": "3",
            f"{cache}/index3/type": "Unified",
            f"{cache}/index3/size": "32768K",
            "devices/system/node/node0/cpulist": "0-3",
            "devices/system/node/node1/cpulist": "4-7",
            "class/dmi/id/sys_vendor": "QEMU",
            "class/dmi/id/product_name": "Standard PC",
            "block/nvme0n1/size": "1875385008",
            "block/nvme0n1/removable": "0",
            "block/nvme0n1/device/model": "x",
            "block/sda/size": "7814037168",
            "block/sda/removable": "0",
            "block/sda/device/model": "x",
            "block/sda/queue/rotational": "1",
            "block/vda/size": "209715200",
            "block/vda/removable": "0",
            "block/vda/device/model": "x",
            "block/vda/queue/rotational": "1",
            "block/sdb/size": "60000000",
            "block/sdb/removable": "1",
            "block/sdb/device/model": "x",
            "block/loop0/size": "1000",
            "block/loop0/removable": "0",
            "block/sr0/size": "0",
            "block/sr0/removable": "0",
            "block/sr0/device/model": "x",
            "class/net/lo/mtu": "65536",
        },
    )


def test_sockets_cores_caches_and_nodes_are_counted(tmp_path: Path) -> None:
    seen = host(system(tmp_path / "sys"), processors(tmp_path / "proc", "sse"))
    assert (seen["cpu_sockets"], seen["cpu_cores_per_socket"], seen["numa_nodes"]) == (2, 2, 2)
    assert seen["cpu_mhz_max"] == 3700.0
    assert seen["cpu_caches"] == "L1d 32K, L3 32768K"
    assert seen["virtual_machine"] is None


def test_disks_are_those_built_in_and_a_virtual_one_hides_its_kind(tmp_path: Path) -> None:
    seen = host(system(tmp_path / "sys"), tmp_path)
    expected = [{"kind": "NVMe SSD", "gb": 960}, {"kind": "HDD", "gb": 4001}, {"kind": None, "gb": 107}]
    assert seen["disks"] == expected


def test_links_of_one_pci_device_are_one_card(tmp_path: Path) -> None:
    sys = system(tmp_path / "sys")
    for name, place, speed in (
        ("eth0", "0000:3b:00.0", "10000"),
        ("eth1", "0000:3b:00.1", "-1"),
        ("ib0", "0000:5e:00.0", "100000"),
    ):
        (sys / "pci" / place).mkdir(parents=True)
        files(sys, {f"class/net/{name}/speed": speed})
        (sys / "class/net" / name / "device").symlink_to(sys / "pci" / place)
    assert host(sys, tmp_path)["network_cards"] == [[10_000, None], [100_000]]


def test_a_virtual_machine_is_named_by_its_firmware(tmp_path: Path) -> None:
    seen = host(system(tmp_path / "sys"), processors(tmp_path / "proc", "hypervisor"))
    assert seen["virtual_machine"] == "QEMU Standard PC"
    assert host(tmp_path / "none", tmp_path / "proc")["virtual_machine"] == "unknown"


def test_what_cannot_be_read_is_none(tmp_path: Path) -> None:
    seen = host(tmp_path, tmp_path)
    names = ("virtual_machine", "cpu_sockets", "cpu_cores_per_socket", "cpu_mhz_max", "cpu_caches", "numa_nodes")
    names += ("disks", "network_cards")
    assert [seen[name] for name in names] == [None] * len(names)


@pytest.mark.parametrize("name", ["HF_TOKEN", "VLLM_API_KEY", "NVIDIA_SECRET", "VLLM_PASSWORD"])
def test_the_value_of_a_secret_is_never_kept(name: str) -> None:
    assert variables({name: "hunter2"}) == {name: "(set)"}


def test_only_variables_that_change_an_engine_are_kept() -> None:
    seen = variables(
        {
            "PATH": "/bin",
            "OMP_NUM_THREADS": "2",
            "TOKENIZERS_PARALLELISM": "false",
            "VLLM_PROXY": "http://me:hunter2@proxy:3128/x",
        }
    )
    assert seen == {
        "OMP_NUM_THREADS": "2",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_PROXY": "http://(set)@proxy:3128/x",
    }
