"""Categories of kernels by the names that cuBLAS, torch, NCCL and Triton give them, and of every moment of a trace."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile, record_function

from tests.benchmarks.step_timeline import CATEGORIES, Event, Timeline, category_of, read_trace, seconds_of
from tests.support.launch import ROOT

NAMES = {
    "GEMM": """
        nvjet_tst_192x192_64x4_2x1_v_bz_coopB_TNN
        nvjet_hsh_256x128_64x4_1x2_h_bz_coopA_NTT
        sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_warpgroupsize1x1x1_execute_segment_k_off_kernel__5x_cublas
        ampere_bf16_s16816gemm_bf16_256x128_ldg8_f2f_stages_64x3_tn
        void cutlass::Kernel2<cutlass_80_wmma_tensorop_bf16_s161616gemm_bf16_16x16_128x2_tn_align8>(cutlass_80::Params)
        void gemv2T_kernel_val<int, int, __nv_bfloat16, __nv_bfloat16, __nv_bfloat16, float, 128, 16, 4, 4, false>
        std::enable_if<!(false), void>::type internal::gemvx::kernel<int, int, __nv_bfloat16, float, false, true>
        void cublasLt::splitKreduce_kernel<32, 16, int, float, __nv_bfloat16, float, __nv_bfloat16, false, true>
        aten::mm
        aten::addmm
        aten::bmm
    """,
    "attention": """
        void pytorch_flash::flash_fwd_kernel<pytorch_flash::Flash_fwd_kernel_traits<96, 128, 64, cutlass::bfloat16_t>>
        void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<Flash_bwd_kernel_traits<96, 64, 128, 8>>
        void pytorch_flash::flash_bwd_dot_do_o_kernel<true, pytorch_flash::Flash_bwd_kernel_traits<96, 64, 128, 8>>
        void pytorch_flash::flash_bwd_convert_dq_kernel<pytorch_flash::Flash_bwd_kernel_traits<96, 64, 128, 8>>
        void cutlass::device_kernel<flash::enable_sm90_or_later<flash::FlashAttnFwdSm90<flash::CollectiveMainloop>>>
        fmha_cutlassF_bf16_aligned_64x64_rf_sm80(PyTorchMemEffAttention::AttentionKernel<cutlass::bfloat16_t>::Params)
        fmha_cutlassB_bf16_aligned_128x64_k96_sm80(PyTorchMemEffAttention::AttentionBackwardKernel::Params)
        cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x128_4x1x1_cga1x1x1_kernel0_0
        aten::_scaled_dot_product_flash_attention_for_cpu_backward
    """,
    "communication": """
        ncclDevKernel_AllGather_RING_LL(ncclDevKernelArgsStorage<4096ul>)
        ncclDevKernel_ReduceScatter_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)
        c10d::_allgather_base_
        gloo:all_reduce
    """,
    "optimizer": """
        void at::native::multi_tensor_apply_kernel<FusedOptimizerTensorListMetadata<4>, FusedAdamMathFunctor<float, 4>>
        void multi_tensor_apply_kernel<TensorListMetadata<4>, AdamFunctor<float, float, long>>
        Optimizer.step#AdamW.step
        aten::_fused_adamw_
    """,
    "memory-bound": """
        void at::native::vectorized_elementwise_kernel<8, at::native::GeluCUDAKernelImpl, std::array<char*, 2ul>>
        void at::native::unrolled_elementwise_kernel<at::native::direct_copy_kernel_cuda, std::array<char*, 2ul>, 4>
        void at::native::reduce_kernel<128, 4, at::native::ReduceOp<c10::BFloat16, at::native::func_wrapper_t<float>>>
        void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<c10::BFloat16, float, false>
        void at::native::(anonymous namespace)::layer_norm_grad_input_kernel_vectorized<c10::BFloat16, float, false>
        void at::native::(anonymous namespace)::cunn_SoftMaxForward<8, float, float, float, LogSoftMaxForwardEpilogue>
        void at::native::(anonymous namespace)::CatArrayBatchedCopy_alignedK_contig<OpaqueType<2u>, unsigned int, 2, 64>
        void at::native::_scatter_gather_elementwise_kernel<128, 8, at::native::_cuda_scatter_gather_internal_kernel>
        void at::native::(anonymous namespace)::embedding_backward_feature_kernel<c10::BFloat16, float, long>
        triton_poi_fused_add_native_layer_norm_0
        Memcpy DtoD (Device -> Device)
        Memset (Device)
        aten::native_layer_norm
        aten::cat
    """,
}  # fmt: skip


@pytest.mark.parametrize("category", NAMES)
def test_a_kernel_is_recognized_by_its_name(category: str) -> None:
    for name in filter(None, map(str.strip, NAMES[category].splitlines())):
        assert category_of(name) == category, name


def test_our_kernels_are_memory_bound() -> None:
    folder = ROOT / "model" / "kernels"
    pattern = re.compile(r"^@jit.*\ndef (_\w+)\(", re.MULTILINE)
    kernels = {name for path in folder.glob("*.py") for name in pattern.findall(path.read_text())}
    assert len(kernels) >= 12
    assert {category_of(name) for name in kernels} == {"memory-bound"}


def seconds_by_category(timeline: Timeline) -> dict[str, float]:
    return {category: sum(names.values()) for category, names in seconds_of(timeline).items()}


def test_every_moment_has_one_category() -> None:
    timeline = Timeline(
        events=(
            Event("aten::linear", 1, 4),
            Event("aten::mm", 2, 3),  # inside it
            Event("ncclDevKernel_AllGather", 3.5, 6),  # the last two seconds overlap with nothing
            Event("aten::add_", 7, 8),
            Event("aten::mm", 9, 20),  # past the end
        ),
        optimizer=(Event("optimizer", 6.5, 8.5),),
        begin=0,
        end=10,
    )
    expected = {"GEMM": 2, "attention": 0, "memory-bound": 2, "communication": 2, "optimizer": 1, "idle": 3}
    assert seconds_by_category(timeline) == expected


def test_a_trace_of_the_profiler_is_read(tmp_path: Path) -> None:
    matrix = torch.randn(300, 300)
    with profile(activities=[ProfilerActivity.CPU]) as profiler, record_function("steps"):
        result = matrix @ matrix
        with record_function("optimizer"):
            result.mul_(2)
    profiler.export_chrome_trace(str(tmp_path / "trace.json"))
    timeline = read_trace(tmp_path / "trace.json", "steps", "optimizer")
    found = seconds_of(timeline)
    assert "aten::mm" in found["GEMM"] and "aten::mul_" in found["optimizer"]
    assert sum(seconds_by_category(timeline).values()) == pytest.approx(timeline.end - timeline.begin)


def test_a_trace_of_a_gpu_counts_kernels_only(tmp_path: Path) -> None:
    def record(kind: str, name: str, begin: float, seconds: float) -> dict[str, object]:
        return {"ph": "X", "cat": kind, "name": name, "ts": begin * 1e6, "dur": seconds * 1e6}

    records = [
        record("user_annotation", "steps", 0, 10),
        record("cpu_op", "aten::mm", 0, 1),
        record("kernel", "nvjet_tst_192x192_64x4_2x1_v_bz_coopB_TNN", 1, 4),
        record("gpu_user_annotation", "optimizer", 6, 3),
        record("kernel", "vectorized_elementwise_kernel", 6, 2),
        record("gpu_memcpy", "Memcpy DtoD (Device -> Device)", 9.5, 0.5),
    ]
    (tmp_path / "trace.json").write_text(json.dumps({"traceEvents": [*records, {"ph": "M", "name": "process_name"}]}))
    found = seconds_by_category(read_trace(tmp_path / "trace.json", "steps", "optimizer"))
    assert list(found) == list(CATEGORIES)
    assert found == pytest.approx(
        {"GEMM": 4, "attention": 0, "memory-bound": 0.5, "communication": 0, "optimizer": 2, "idle": 3.5}
    )
