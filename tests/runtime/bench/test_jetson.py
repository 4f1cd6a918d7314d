"""What Jetsons print, read as it was recorded on boards: tegrastats, nvpmodel, the release; and energy made of it.

The format is NVIDIA's Jetson Linux Developer Guide, "Tegrastats Utility". The lines are others' recordings, cited
beside each; none was made up.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from fastv_runtime.bench.machine.energy import Integral
from fastv_runtime.bench.machine.jetson import board, l4t, power_mode
from fastv_runtime.bench.machine.tegrastats import parse

# AGX Orin 64GB, L4T 36.4.4 (JetPack 6.2.1): github.com/lesomnus/tegra-exporter, stats/parse_test.go.
AGX_ORIN = (
    "05-09-2026 18:42:08 RAM 18203/62841MB (lfb 466x4MB) SWAP 86/31420MB (cached 0MB) CPU "
    "[14%@729,5%@1648,4%@1645,3%@2050,3%@1113,0%@1113,0%@1113,70%@1113,4%@1651,32%@1651,3%@1651,15%@1651] "
    "EMC_FREQ 2%@2133 GR3D_FREQ 0%@[0,0] NVENC 78%@179 NVDEC off NVJPG off NVJPG1 off VIC 37%@115 OFA off NVDLA0 off "
    "NVDLA1 off PVA0_FREQ off APE 174 cpu@52.156C soc2@48.468C soc0@49.218C tj@52.156C soc1@49.625C "
    "VDD_GPU_SOC 2412mW/2412mW VDD_CPU_CV 1607mW/1607mW VIN_SYS_5V0 4707mW/4674mW"
)
# AGX Orin: github.com/GDWR/jetson_exporter, issue 14.
AGX_ORIN_5 = (
    "04-11-2025 10:36:27 RAM 4321/62801MB (lfb 1759x4MB) SWAP 19/31400MB (cached 0MB) CPU "
    "[0%@729,0%@729,0%@729,0%@729,0%@729,0%@729,0%@729,0%@729,0%@729,0%@729,0%@729,0%@729] EMC_FREQ 0%@2133 "
    "GR3D_FREQ 0%@[0,0] VIC_FREQ 729 APE 174 CV0@-256C CPU@44.562C Tboard@32C SOC2@40.093C Tdiode@33C SOC0@41.093C "
    "CV1@-256C GPU@-256C tj@44.343C SOC1@41.25C CV2@-256C VDD_GPU_SOC 2340mW/2340mW VDD_CPU_CV 390mW/390mW "
    "VIN_SYS_5V0 4025mW/4025mW NC 0mW/0mW VDDQ_VDD2_1V8AO 301mW/301mW NC 0mW/0mW"
)
# Orin Nano 8GB: github.com/henrygd/beszel, the tests of its GPU agent (after issue 286).
ORIN_NANO = (
    "11-15-2024 08:38:09 RAM 6185/7620MB (lfb 8x2MB) SWAP 851/3810MB (cached 1MB) CPU "
    "[15%@729,11%@729,14%@729,13%@729,11%@729,8%@729] EMC_FREQ 43%@2133 GR3D_FREQ 63%@[621] NVDEC off NVJPG off "
    "NVJPG1 off VIC off OFA off APE 200 cpu@53.968C soc2@52.437C soc0@50.75C gpu@53.343C tj@53.968C soc1@51.656C "
    "VDD_IN 12479mW/12479mW VDD_CPU_GPU_CV 4667mW/4667mW VDD_SOC 2817mW/2817mW"
)
# AGX Thor, L4T 38.4.0 (JetPack 7.1): github.com/lesomnus/tegra-exporter, stats/parse_test.go.
THOR_38 = (
    "05-17-2026 10:00:33 RAM 4280/125773MB (lfb 29x4MB) SWAP 0/2048MB (cached 0MB) CPU "
    "[0%@972,0%@972,0%@972,0%@972,1%@972,0%@972,1%@972,0%@972,0%@2601,17%@2601,1%@972,9%@972,0%@972,1%@972] "
    "EMC_FREQ 0%@665 GR3D_FREQ @[0,0,0] NVENC0_FREQ @0 NVENC1_FREQ @0 NVDEC0_FREQ @0 NVDEC1_FREQ @0 NVJPG0_FREQ @0 "
    "VIC off OFA_FREQ @0 PVA0_FREQ off APE 300 cpu@35.25C tj@36.031C soc012@36.062C soc345@34.5C VDD_GPU 0mW/0mW "
    "VDD_CPU_SOC_MSS 4923mW/4544mW VIN_SYS_5V0 4327mW/4227mW"
)
# AGX Thor, L4T 39.2.0 (JetPack 7.2): the same. Three values a rail, two a temperature.
THOR_39 = (
    "07-23-2026 15:29:27 RAM 9091/125811MB (lfb 19x4MB) SWAP 0/2048MB (cached 0MB) CPU "
    "[40%@972,16%@972,18%@972,20%@972,13%@972,11%@972,15%@972,19%@972,10%@972,15%@972,28%@972,11%@972,11%@972,15%@972] "
    "EMC_FREQ 7%@3200 GR3D_FREQ @[314,314,314] NVENC0_FREQ @1556 NVENC1_FREQ @1556 NVDEC0_FREQ @1556 NVDEC1_FREQ @1556 "
    "NVJPG0_FREQ @1556 VIC 59%@423 OFA_FREQ @1556 PVA0_FREQ off APE 300 cpu@34.312C/34.843C tj@35.906C/35.906C "
    "soc012@34.093C/34.437C gpu@35.906C/35.906C soc345@34.437C/34.437C VDD_GPU 4925mW/4925mW/4925mW "
    "VDD_CPU_SOC_MSS 7953mW/8332mW/8710mW VIN_SYS_5V0 6667mW/6717mW/6767mW"
)


@pytest.mark.parametrize(
    ("line", "ram", "cores", "gpu", "hottest", "power", "rails"),
    [
        (AGX_ORIN, (18203, 62841), 12, (0, (0, 0)), 52.156, 8.726, ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")),
        (AGX_ORIN_5, (4321, 62801), 12, (0, (0, 0)), 44.562, 6.755, ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")),
        (ORIN_NANO, (6185, 7620), 6, (63, (621,)), 53.968, 12.479, ("VDD_IN",)),
        (THOR_38, (4280, 125773), 14, (None, (0, 0, 0)), 36.062, 9.25, ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0")),
        (
            THOR_39,
            (9091, 125811),
            14,
            (None, (314, 314, 314)),
            35.906,
            19.545,
            ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"),
        ),
    ],
    ids=["agx-orin", "agx-orin-rails-off", "orin-nano", "thor-l4t38", "thor-l4t39"],
)
def test_recorded_lines(
    line: str,
    ram: tuple[int, int],
    cores: int,
    gpu: tuple[int | None, tuple[int, ...]],
    hottest: float,
    power: float,
    rails: tuple[str, ...],
) -> None:
    sample = parse(line)
    assert (sample.ram_used, sample.ram_total) == (ram[0] << 20, ram[1] << 20)
    assert len(sample.cpus) == cores and None not in sample.cpus
    assert (sample.gpu_load, sample.gpu_mhz) == gpu
    assert max(sample.temperatures.values()) == hottest
    found = sample.power()
    assert found is not None
    assert found[0] == pytest.approx(power) and set(found[1]) == set(rails)


def test_sensors_of_parts_that_are_off_have_no_temperature() -> None:
    assert not {"CV0", "CV1", "CV2", "GPU"} & set(parse(AGX_ORIN_5).temperatures)
    assert "NC" not in parse(AGX_ORIN_5).watts


def test_values_are_those_of_the_moment() -> None:
    sample = parse(THOR_39)
    assert sample.watts["VDD_CPU_SOC_MSS"] == 7.953 and sample.temperatures["cpu"] == 34.312
    assert sample.cpus[0] == (40, 972)


def test_cores_that_are_off_and_a_clock_that_all_share() -> None:
    # Both forms are in the guide's table: CPU [X%,Y%, , ]@Z or CPU [X%@Z, Y%@Z,...], "off" for a core that is.
    assert parse("CPU [10%@1190, off,5%@1190]").cpus == ((10, 1190), None, (5, 1190))
    assert parse("CPU [10%,5%]@1190").cpus == ((10, 1190), (5, 1190))


def test_other_text_is_not_a_line() -> None:
    with pytest.raises(ValueError, match="not a line of tegrastats"):
        parse("tegrastats: command not found")


def test_the_release_and_the_mode_by_name() -> None:
    # The release files are those of github.com/rbonghi/jetson_stats, issue 711, and of the recordings above.
    release = "# R38 (release), REVISION: 2.0, GCID: 41844464, BOARD: generic, EABI: aarch64, DATE: Fri Aug 22 00:55:42"
    assert l4t(release) == "38.2.0"
    assert l4t("# R36 (release), REVISION: 4.4, GCID: 41062509, BOARD: generic") == "36.4.4"
    assert l4t("Ubuntu 24.04") is None
    assert power_mode("NV Power Mode: MAXN_SUPER\n2\n") == "MAXN_SUPER"
    assert power_mode("") is None


def test_the_board_by_its_device_tree(tmp_path: Path) -> None:
    release, model = tmp_path / "nv_tegra_release", tmp_path / "model"
    model.write_text("NVIDIA Jetson AGX Thor Developer Kit\0")
    assert board(model, release) is None  # other boards have a device tree as well
    release.write_text("# R38")
    assert board(model, release) == "NVIDIA Jetson AGX Thor Developer Kit"


def test_energy_is_power_times_time() -> None:
    now = iter([0.0, 1.0, 1.0, 3.0, 3.0, 4.0])
    integral = Integral(clock=lambda: next(now))
    integral.add(10.0)  # from second 1 on
    integral.add(20.0)  # from second 3 on
    assert integral.joules() == pytest.approx(2 * 10 + 1 * 20)
