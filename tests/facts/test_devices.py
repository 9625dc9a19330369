"""Cards by the name that a driver reports, and the ratio that their peaks must keep. Names as
public logs show them."""

import pytest

from lora_profiler.facts.catalog import bundled_gpus, match_device

MIB = 2**20

NAMES = [
    ("Tesla T4", 15_109 * MIB, "t4"),
    ("NVIDIA L4", 22_563 * MIB, "l4"),
    ("NVIDIA L40", 45_373 * MIB, "l40"),
    ("NVIDIA L40S", 45_589 * MIB, "l40s"),
    ("nvidia l40s", None, "l40s"),
    ("NVIDIA A10", 22_528 * MIB, "a10"),
    ("NVIDIA A10G", 22_731 * MIB, "a10g"),
    ("NVIDIA A100-SXM4-40GB", 40_337 * MIB, "a100_sxm_40gb"),
    ("NVIDIA A100-SXM4-80GB", 81_153 * MIB, "a100_sxm_80gb"),
    ("NVIDIA A100 80GB PCIe", 81_153 * MIB, "a100_pcie_80gb"),
    ("NVIDIA H100 80GB HBM3", 81_559 * MIB, "h100_sxm_80gb"),
    ("NVIDIA H100 PCIe", 81_559 * MIB, "h100_pcie_80gb"),
    ("NVIDIA H100 NVL", 95_830 * MIB, "h100_nvl_94gb"),
    ("NVIDIA GH200 480GB", 97_871 * MIB, "gh200_96gb"),
    ("NVIDIA H20", 97_871 * MIB, "h20_96gb"),
    ("NVIDIA H200", 143_771 * MIB, "h200_sxm_141gb"),
    ("NVIDIA B200", 183_359 * MIB, "b200_180gb"),
    ("NVIDIA GB200", 189_471 * MIB, "gb200_186gb"),
    ("NVIDIA B300 SXM6 AC", 275_040 * MIB, "b300_288gb"),
    ("NVIDIA GeForce RTX 3080", 10_240 * MIB, "rtx_3080_10gb"),
    ("NVIDIA GeForce RTX 3080", 12_288 * MIB, "rtx_3080_12gb"),
    ("NVIDIA GeForce RTX 3080 Ti", 12_288 * MIB, "rtx_3080_ti"),
    ("NVIDIA GeForce RTX 4060 Ti", 8_188 * MIB, "rtx_4060_ti_8gb"),
    ("NVIDIA GeForce RTX 4060 Ti", 16_380 * MIB, "rtx_4060_ti_16gb"),
    ("NVIDIA GeForce RTX 4070 Ti SUPER", 16_376 * MIB, "rtx_4070_ti_super"),
    ("GeForce RTX 4090", 24_564 * MIB, "rtx_4090"),
    ("NVIDIA RTX A6000", 49_140 * MIB, "rtx_a6000"),
    ("NVIDIA RTX 6000 Ada Generation", 49_140 * MIB, "rtx_6000_ada"),
    ("AMD Instinct MI300X", 196_592 * MIB, "mi300x_192gb"),
    ("Apple M2 Ultra", None, "apple_m2_ultra"),
]


@pytest.mark.parametrize(("name", "total_bytes", "key"), NAMES)
def test_a_device_is_the_card_of_that_name_and_size(
    name: str, total_bytes: int | None, key: str
) -> None:
    found = match_device(name, total_bytes)
    assert found is not None
    assert found.key == key


@pytest.mark.parametrize(
    ("name", "total_bytes"),
    [
        ("NVIDIA H200 NVL", 143_771 * MIB),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 16_376 * MIB),
        ("NVIDIA GeForce RTX 4090 D", 24_564 * MIB),
        ("NVIDIA GeForce RTX 2080 with Max-Q Design", 8_192 * MIB),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", 97_887 * MIB),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", 4_864 * MIB),
        ("NVIDIA H100 80GB HBM3", 9_984 * MIB),  # a slice whose name does not say so
        ("GRID A100-40C", 40_960 * MIB),
        ("GRID T4-16Q", 16_384 * MIB),
        ("NVIDIA A40-48Q", 49_152 * MIB),
        ("NVIDIA A100-SXM-64GB", 65_536 * MIB),
        ("NVIDIA H20-3e", 143_771 * MIB),
        ("Quadro RTX 6000", 24_576 * MIB),
        ("NVIDIA GeForce RTX 3080", None),  # two sizes share the name
        ("NVIDIA GeForce RTX 3080", 11 * 1024 * MIB + 512 * MIB * 3),
        ("Apple M4 Max", None),
        ("NVIDIA X9000", None),
        ("NVIDIA", None),
        ("", None),
        ("cpu", None),
    ],
)
def test_any_doubt_is_no_card(name: str, total_bytes: int | None) -> None:
    assert match_device(name, total_bytes) is None


def test_every_name_of_the_catalogue_leads_to_its_card() -> None:
    for gpu in bundled_gpus():
        for spelling in (gpu.name, *gpu.aliases):
            found = match_device(spelling, gpu.usable_bytes)
            assert found is gpu or (found is None and spelling == "Apple M4 Max"), spelling


def test_dense_bf16_is_2_or_4_times_fp32() -> None:
    """GeForce from Ampere on 2 x; professional and data-centre cards with the same chips 4 x, but
    A10G and L40, which are 2 x."""
    professional = {
        "a10", "a10g", "a40", "rtx_a4000", "rtx_a5000", "rtx_a6000", "l4", "l40", "l40s",
        "rtx_6000_ada",
    }  # fmt: skip
    professional |= {"rtx_pro_6000_blackwell_ws", "rtx_pro_6000_blackwell_server"}
    checked = 0
    for gpu in bundled_gpus():
        geforce = "GeForce" in gpu.name and gpu.architecture in ("ampere", "ada", "blackwell")
        if geforce or gpu.key in professional:
            assert gpu.bf16_dense_tflops is not None and gpu.fp32_tflops is not None
            ratio = 2 if geforce or gpu.key in ("a10g", "l40") else 4
            assert gpu.bf16_dense_tflops / gpu.fp32_tflops == pytest.approx(ratio, rel=0.02), (
                gpu.key
            )
            checked += 1
    assert checked >= 30
